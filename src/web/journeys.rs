//! Where messages went, as the page shows it.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{App, Problem};
use crate::journal::{journey::Journey, search::Wanted};

/// Journeys in one answer.
const MOST: usize = 100;

/// Whose journeys; one of the first three is given.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    id: Option<String>,
    key: Option<String>,
    /// `NAME=VALUE`
    field: Option<String>,
    #[serde(default = "ten")]
    last: usize,
}

fn ten() -> usize {
    10
}

impl Asked {
    fn wanted(self) -> Result<Wanted, Problem> {
        match (self.id, self.key, self.field) {
            (Some(id), None, None) => Ok(Wanted::Id(id)),
            (None, Some(key), None) => Ok(Wanted::Key(key)),
            (None, None, Some(field)) => {
                let (name, value) = Wanted::field(&field).map_err(Problem::bad_request)?;
                Ok(Wanted::Field(name, value))
            }
            _ => Err(Problem::bad_request("one of id, key and field is expected, as in ?key=7")),
        }
    }
}

/// The last journeys of what is asked for.
pub async fn journeys(
    State(app): State<Arc<App>>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(asked) = asked?;
    let last = asked.last.clamp(1, MOST);
    let wanted = asked.wanted()?;
    let found = app.journeys.find(wanted.clone(), last).await?;
    let shown: Vec<_> = found.journeys.iter().map(|journey| shown(journey, app.config.web.show_payloads)).collect();
    Ok(Json(json!({"asked": wanted.to_string(), "journeys": shown, "more": found.more})))
}

/// A journey, without what is of the payload where that is to be hidden.
fn shown(journey: &Journey, payloads: bool) -> Value {
    let mut shown = journey.json();
    let hops = shown.get_mut("hops").and_then(Value::as_array_mut).filter(|_| !payloads);
    for hop in hops.into_iter().flatten() {
        hop["key"] = Value::Null;
        hop["fields"] = json!({});
    }
    shown
}
