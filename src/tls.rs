//! What all that speaks TLS shares; librdkafka has its own.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;
use tracing::{error, info};

use crate::error::Misconfigured;

/// Has rustls use ring. For all of the process, whoever comes first; who comes later finds the same one.
pub(crate) fn use_ring() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Between two looks at the files of an identity.
const LOOK: Duration = Duration::from_secs(5);

/// Who a server is: its certificate and key, reread where their files change.
pub(crate) struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    current: ArcSwap<ServerConfig>,
    looked: Mutex<Look>,
}

/// The last look at the files.
struct Look {
    at: Instant,
    times: [Option<SystemTime>; 2],
}

impl Identity {
    /// Reads `certificate`, in PEM with those of the authorities between, and its private `key`, in PEM.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, Misconfigured> {
        let look = Look { at: Instant::now(), times: times(certificate, key) };
        let current = ArcSwap::from_pointee(load(certificate, key)?);
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), current, looked: Mutex::new(look) })
    }

    /// Takes a connection as who the server is now.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.look();
        self.current.load_full().into()
    }

    /// Reads the files again where they have changed. What is no use is told once, and what was there stays.
    fn look(&self) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.at.elapsed() < LOOK {
            return;
        }
        looked.at = Instant::now();
        let times = times(&self.certificate, &self.key);
        if looked.times == times {
            return;
        }
        looked.times = times;
        match load(&self.certificate, &self.key) {
            Ok(config) => {
                self.current.store(Arc::new(config));
                info!("{}: reread", self.certificate.display());
            }
            Err(error) => error!("{error}; the certificate read before stays in use"),
        }
    }
}

fn times(certificate: &Path, key: &Path) -> [Option<SystemTime>; 2] {
    [certificate, key].map(|path| path.metadata().and_then(|metadata| metadata.modified()).ok())
}

fn load(certificate: &Path, key: &Path) -> Result<ServerConfig, Misconfigured> {
    use_ring();
    let wrong = |path: &Path, why: String| Misconfigured(format!("{}: {why}", path.display()));
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| wrong(certificate, pem("a certificate", &error)))?;
    if chain.is_empty() {
        return Err(wrong(certificate, "has no certificate in PEM".to_owned()));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, pem("a private key", &error)))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, secret);
    let mut config =
        config.map_err(|error| wrong(key, format!("does not go with {}: {error}", certificate.display())))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// What is wrong with a file that should hold `what`.
fn pem(what: &str, error: &rustls::pki_types::pem::Error) -> String {
    match error {
        rustls::pki_types::pem::Error::Io(error) if error.kind() == io::ErrorKind::NotFound => {
            "is not there".to_owned()
        }
        rustls::pki_types::pem::Error::Io(error) => format!("cannot be read: {error}"),
        _ => format!("has no {} in PEM", what.trim_start_matches("a ")),
    }
}
