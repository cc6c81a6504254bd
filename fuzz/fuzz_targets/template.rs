//! What a publisher writes can change what is asked of a subscriber's host, and never which host that is, nor how the
//! connection to it is used.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use metrobus::webhook::{address::Allowed, target::Target, template};

static TARGETS: LazyLock<Vec<Target>> = LazyLock::new(|| {
    ["https://example.com:8080/a/:id/:name.json?v=:id#:id", "http://:id@example.com/", "http://127.1:80/:a:b/.:id/%2e"]
        .into_iter()
        .filter_map(|url| Target::parse(url, &Allowed::new(vec!["127.0.0.0/8".parse().expect("a network")])).ok())
        .collect()
});

const OF_THE_CONNECTION: [&str; 7] =
    ["connection", "content-length", "host", "te", "transfer-encoding", "upgrade", "webhook-id"];

fuzz_target!(|message: &[u8]| {
    for target in TARGETS.iter() {
        let Ok(request) = template::request(target, message) else { continue };
        let (url, own) = (&request.url, target.url());
        assert_eq!((url.scheme(), url.host(), url.port()), (own.scheme(), own.host(), own.port()));
        assert_eq!((url.username(), url.password(), url.fragment()), ("", None, None));
        assert_eq!(url.path().matches('/').count(), own.path().matches('/').count(), "{url}");
        assert!(url.query().unwrap_or_default().starts_with(own.query().unwrap_or_default()), "{url}");
        // What is sent is what was looked at
        assert_eq!(url::Url::parse(url.as_str()).as_ref(), Ok(url));
        for name in OF_THE_CONNECTION {
            assert!(!request.headers.contains_key(name), "{name}");
        }
        assert!(serde_json::from_slice::<&serde_json::value::RawValue>(&request.body).is_ok());
    }
});
