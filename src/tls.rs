//! What all that speaks TLS shares; librdkafka has its own.

/// Has rustls use ring. For all of the process, whoever comes first; who comes later finds the same one.
pub(crate) fn use_ring() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
