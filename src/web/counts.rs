//! How many messages each topic's stop has read: what the status page of the Python original answers.
//!
//! From the counters in Redis where there are any, as the original has them: the hash `counter`, and `hits`, which counts
//! how often this was asked. Else from the journal, as far as it was looked back at.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::Json;
use redis::Pipeline;
use tokio::{task::spawn_blocking, time::timeout};

use super::Problem;
use crate::{
    cache::redis::Server,
    config::Config,
    traffic::{Picture, Watch},
};

/// Beside the topics.
const HITS: &str = "hit_count";

/// Where the counts are from.
pub enum Counts {
    Redis { server: Arc<Mutex<Server>>, patience: std::time::Duration },
    Journal { hits: AtomicU64 },
}

impl Counts {
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let redis = &config.redis;
        match config.counters() {
            true => {
                let server = Arc::new(Mutex::new(Server::new(&redis.url, redis.timeout)?));
                Ok(Self::Redis { server, patience: redis.timeout * 2 })
            }
            false => Ok(Self::Journal { hits: AtomicU64::new(0) }),
        }
    }

    pub async fn answer(&self, traffic: &Watch) -> Result<Json<BTreeMap<String, u64>>, Problem> {
        let (mut counts, hits) = match self {
            Self::Redis { server, patience } => {
                let server = Arc::clone(server);
                let asked = timeout(*patience, spawn_blocking(move || ask(&server))).await;
                let answered = asked.map_err(|_| Problem::later(5, "Redis does not answer in time"))?;
                let answered = answered.map_err(|error| anyhow::anyhow!("ask Redis: {error}"))?;
                answered.map_err(|error| Problem::later(5, format!("the counters: {error:#}")))?
            }
            Self::Journal { hits } => (read(&traffic.picture()), hits.fetch_add(1, Ordering::Relaxed) + 1),
        };
        counts.insert(HITS.to_owned(), hits);
        Ok(Json(counts))
    }
}

fn ask(server: &Mutex<Server>) -> anyhow::Result<(BTreeMap<String, u64>, u64)> {
    let mut pipeline = Pipeline::with_capacity(2);
    pipeline.cmd("HGETALL").arg("counter").cmd("INCR").arg("hits");
    server.lock().unwrap_or_else(PoisonError::into_inner).query(&pipeline, Some(("counter", "hash")))
}

/// By what a stop reads; one that reads several topics counts at the first.
fn read(picture: &Picture) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for stop in &picture.stops {
        if let Some(topic) = stop.topics.first() {
            *counts.entry(topic.clone()).or_default() += stop.volume.count;
        }
    }
    counts
}
