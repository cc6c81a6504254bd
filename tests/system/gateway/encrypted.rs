//! Connections that are encrypted.

use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};

use super::{address, fleet};
use crate::{
    fleet::{DEADLINE, Engine},
    support::wait_until,
};

/// A certificate for this machine, which is its own authority, and its key.
fn identity() -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("names");
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

fn client(certificate: &str) -> reqwest::blocking::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let trusted = reqwest::Certificate::from_pem(certificate.as_bytes()).expect("a certificate");
    let client = reqwest::blocking::Client::builder().tls_certs_only([trusted]).timeout(Duration::from_secs(60));
    client.no_proxy().build().expect("a client")
}

#[test]
fn events_come_over_tls_and_a_new_certificate_is_taken_when_its_file_changes() {
    let mut fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    let (certificate, key) = identity();
    fleet.scratch.write("cert.pem", &certificate);
    fleet.scratch.write("key.pem", key);
    fleet.set("GATEWAY__TLS__CERTIFICATE", "cert.pem");
    fleet.set("GATEWAY__TLS__KEY", "key.pem");
    let mut process = fleet.metrobus(&["gateway"]).spawn();
    let address = address(&mut process, "gateway on https://");
    let url = format!("https://{address}/topics/Source");
    let send = |client: &reqwest::blocking::Client| {
        client.post(&url).header("content-type", "application/json").body("{}").send()
    };
    assert_eq!(send(&client(&certificate)).expect("an answer").status(), 202);
    let stranger = client(&identity().0);
    assert!(send(&stranger).is_err(), "a certificate that nobody trusts");
    let plain = format!("http://{address}/topics/Source");
    assert!(client(&certificate).post(&plain).body("{}").send().is_err());

    let (newer, key) = identity();
    // First one that does not go with the key: what was there stays
    fleet.scratch.write("cert.pem", &newer);
    wait_until("the change to be seen", DEADLINE, || {
        assert_eq!(send(&client(&certificate)).expect("an answer").status(), 202);
        process.stderr_text().contains("stays in use").then_some(())
    });
    fleet.scratch.write("key.pem", key);
    wait_until("the new certificate", DEADLINE, || send(&client(&newer)).ok().filter(|answer| answer.status() == 202));
    process.signal(crate::support::Signal::TERM);
    process.wait(DEADLINE).assert_code(0);
}
