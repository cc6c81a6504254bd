//! Where a webhook goes: its URL, and what its host turns out to be when the connection is made.
//!
//! A URL is read once, as browsers and reqwest read it (the WHATWG URL standard: `127.1`, `0x7f.1` and `2130706433` are all
//! 127.0.0.1), and the address that it spells out is judged then. A name is judged each time it is resolved for a connection, and the
//! connection goes to the addresses that were judged: a name that leads elsewhere a moment later is of no use.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use reqwest::{
    ClientBuilder,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use tokio::sync::oneshot;
use url::{Host, Url};

use super::address::{Allowed, Refused};

/// A URL that a webhook may go to, as far as the URL itself tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    url: Url,
}

/// Why a URL is none that a webhook may go to. The text never has the URL in it: what is behind the host may be secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    #[error("the URL cannot be read: {0}")]
    Unreadable(#[from] url::ParseError),
    #[error("the URL must begin with http:// or https://")]
    Scheme,
    #[error("the URL must hold no user and password before its host: send them in a header")]
    Login,
    #[error("the URL names no host")]
    NoHost,
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl Target {
    /// Reads `url`. An address for a host is judged by `allowed`; a name is when it is resolved, by [`Resolver`].
    pub fn parse(url: &str, allowed: &Allowed) -> Result<Self, BadTarget> {
        let url = Url::parse(url)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(BadTarget::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BadTarget::Login);
        }
        match url.host() {
            None => return Err(BadTarget::NoHost),
            Some(Host::Domain(_)) => {}
            Some(Host::Ipv4(address)) => allowed.judge(address.into())?,
            Some(Host::Ipv6(address)) => allowed.judge(address.into())?,
        }
        Ok(Self { url })
    }

    pub fn url(&self) -> &Url {
        &self.url
    }
}

/// Finds the addresses of a name; their ports mean nothing.
pub type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// Resolves names for reqwest, to addresses that webhooks may go to and no others.
///
/// Requests that need one name at the same time share a look-up: each may take a thread for as long as the system's resolver waits
/// for servers that do not answer, and one name shall not take all that there are.
pub struct Resolver {
    allowed: Arc<ArcSwap<Allowed>>,
    lookup: Lookup,
    /// Who waits for the addresses of a name that is being looked up.
    waiting: Arc<Waiting>,
}

type Found = Result<Vec<SocketAddr>, Arc<io::Error>>;
type Waiting = Mutex<HashMap<String, Vec<oneshot::Sender<Found>>>>;

/// All addresses of a name were refused.
#[derive(Debug, thiserror::Error)]
#[error("{host} may not be called: {refused}")]
pub struct NoneAllowed {
    pub host: String,
    /// Of the first of them.
    pub refused: Refused,
}

impl Resolver {
    /// Looks names up as the system does. `allowed` holds as it is when addresses are found.
    pub fn new(allowed: Arc<ArcSwap<Allowed>>) -> Self {
        let lookup = |host: String| -> BoxFuture<'static, _> {
            Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.collect()) })
        };
        Self::with(allowed, Arc::new(lookup))
    }

    /// Looks names up by `lookup`.
    pub fn with(allowed: Arc<ArcSwap<Allowed>>, lookup: Lookup) -> Self {
        Self { allowed, lookup, waiting: Arc::default() }
    }
}

/// The addresses of `host`, by a look-up that has begun already or by one of its own.
async fn find(lookup: Lookup, waiting: Arc<Waiting>, host: String) -> Found {
    let (tell, told) = oneshot::channel();
    let first = {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let all = waiting.entry(host.clone()).or_default();
        all.push(tell);
        all.len() == 1
    };
    if first {
        // A task of its own: whoever has asked for it may have given up before it ends
        tokio::spawn(async move {
            let found = lookup(host.clone()).await.map_err(Arc::new);
            let all = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&host);
            all.into_iter().flatten().for_each(|tell| _ = tell.send(found.clone()));
        });
    }
    told.await.unwrap_or_else(|_| Err(Arc::new(io::Error::other("the look-up was cut off"))))
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let allowed = Arc::clone(&self.allowed);
        let found = find(Arc::clone(&self.lookup), Arc::clone(&self.waiting), host.clone());
        Box::pin(async move {
            let found = found.await?;
            Ok(Box::new(open(&allowed.load(), host, found)?.into_iter()) as Addrs)
        })
    }
}

/// Those of `addresses` that webhooks may go to. Fails where there are addresses and none of them is left.
fn open(allowed: &Allowed, host: String, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, NoneAllowed> {
    let mut open = Vec::new();
    let mut first = None;
    for address in addresses {
        match judge(allowed, address) {
            Ok(()) => open.push(address),
            Err(refused) => first = first.or(Some(refused)),
        }
    }
    match first {
        Some(refused) if open.is_empty() => Err(NoneAllowed { host, refused }),
        _ => Ok(open),
    }
}

fn judge(allowed: &Allowed, address: SocketAddr) -> Result<(), Refused> {
    match address {
        // A zone is an interface of this machine, whatever the address says
        SocketAddr::V6(scoped) if scoped.scope_id() != 0 => {
            Err(Refused { address: address.ip(), what: "an address of one interface" })
        }
        _ => allowed.judge(address.ip()),
    }
}

/// The beginnings of a client for webhooks: it resolves by `resolver`, goes through no proxy, which would resolve names by
/// itself, and follows no redirect, which would lead past [`Target::parse`]. An address for a host is never resolved, so give it
/// URLs of a [`Target`] alone.
pub fn client(resolver: Resolver) -> ClientBuilder {
    crate::tls::use_ring();
    ClientBuilder::new().no_proxy().redirect(redirect::Policy::none()).dns_resolver(Arc::new(resolver))
}

#[cfg(test)]
mod tests;
