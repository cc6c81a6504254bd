use std::{
    error::Error,
    io::{Read, Write},
    net::{IpAddr, TcpListener},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::*;

/// Spellings of addresses that nobody outside may reach, and what they turn out to be.
const REFUSED: &[(&str, &str)] = &[
    // Loopback, as people and attackers write it
    ("http://127.0.0.1/", "127.0.0.1"),
    ("http://127.0.0.1:8080/", "127.0.0.1"),
    ("https://127.0.0.1/", "127.0.0.1"),
    ("HTTP://127.0.0.1/", "127.0.0.1"),
    ("http://127.0.0.1./", "127.0.0.1"),
    ("http://127.1/", "127.0.0.1"),
    ("http://127.0.1/", "127.0.0.1"),
    ("http://127.255.255.254/", "127.255.255.254"),
    ("http://2130706433/", "127.0.0.1"),
    ("http://0x7f000001/", "127.0.0.1"),
    ("http://0X7F000001/", "127.0.0.1"),
    ("http://0x7f.0.0.1/", "127.0.0.1"),
    ("http://0x7f.0x0.0x0.0x1/", "127.0.0.1"),
    ("http://0x7f.1/", "127.0.0.1"),
    ("http://0177.0.0.1/", "127.0.0.1"),
    ("http://0177.0.0.01/", "127.0.0.1"),
    ("http://017700000001/", "127.0.0.1"),
    ("http://0177.1/", "127.0.0.1"),
    ("http://127.0x1/", "127.0.0.1"),
    ("http://127.00000000000000000000001/", "127.0.0.1"),
    ("http://%31%32%37.0.0.1/", "127.0.0.1"),
    ("http://127%2e0%2e0%2e1/", "127.0.0.1"),
    ("http://127。0。0。1/", "127.0.0.1"),
    ("http://127．0．0．1/", "127.0.0.1"),
    ("http://①②⑦.⓪.⓪.①/", "127.0.0.1"),
    ("http://１２７.０.０.１/", "127.0.0.1"),
    ("http://12\t7.0.0\n.1/", "127.0.0.1"),
    (" http://127.0.0.1/", "127.0.0.1"),
    ("http:127.0.0.1/", "127.0.0.1"),
    ("http:/127.0.0.1/", "127.0.0.1"),
    ("http:\\\\127.0.0.1\\", "127.0.0.1"),
    ("http:////127.0.0.1/", "127.0.0.1"),
    ("http://127.0.0.1\\@example.com/", "127.0.0.1"),
    ("http://127.0.0.1#@example.com/", "127.0.0.1"),
    ("http://127.0.0.1?@example.com/", "127.0.0.1"),
    ("http://[::1]/", "::1"),
    ("http://[0:0:0:0:0:0:0:1]/", "::1"),
    ("http://[0000:0000::0001]:80/", "::1"),
    ("http://[::127.0.0.1]/", "::7f00:1"),
    ("http://[::ffff:127.0.0.1]/", "::ffff:127.0.0.1"),
    ("http://[::ffff:7f00:1]/", "::ffff:127.0.0.1"),
    ("http://[0:0:0:0:0:FFFF:7F00:0001]/", "::ffff:127.0.0.1"),
    ("http://[::ffff:0:127.0.0.1]/", "::ffff:0:7f00:1"),
    // Any address of this machine
    ("http://0.0.0.0/", "0.0.0.0"),
    ("http://0/", "0.0.0.0"),
    ("http://0x0/", "0.0.0.0"),
    ("http://00/", "0.0.0.0"),
    ("http://0.1.2.3/", "0.1.2.3"),
    ("http://[::]/", "::"),
    ("http://[::ffff:0.0.0.0]/", "::ffff:0.0.0.0"),
    // Metadata of clouds
    ("http://169.254.169.254/latest/meta-data/", "169.254.169.254"),
    ("http://2852039166/", "169.254.169.254"),
    ("http://0xa9fea9fe/", "169.254.169.254"),
    ("http://0251.0376.0251.0376/", "169.254.169.254"),
    ("http://169.254.43518/", "169.254.169.254"),
    ("http://[::ffff:a9fe:a9fe]/", "::ffff:169.254.169.254"),
    ("http://[64:ff9b::169.254.169.254]/", "64:ff9b::a9fe:a9fe"),
    ("http://[64:ff9b:1::a9fe:a9fe]/", "64:ff9b:1::a9fe:a9fe"),
    ("http://[2002:a9fe:a9fe::1]/", "2002:a9fe:a9fe::1"),
    ("http://[fd00:ec2::254]/", "fd00:ec2::254"),
    ("http://100.100.100.200/", "100.100.100.200"),
    ("http://168.63.129.16/", "168.63.129.16"),
    ("http://192.0.0.192/", "192.0.0.192"),
    // Networks of one's own
    ("http://10.0.0.1/", "10.0.0.1"),
    ("http://10.1/", "10.0.0.1"),
    ("http://012.0.0.1/", "10.0.0.1"),
    ("http://167772161/", "10.0.0.1"),
    ("http://172.16.0.1/", "172.16.0.1"),
    ("http://172.31.255.255/", "172.31.255.255"),
    ("http://192.168.1.1/", "192.168.1.1"),
    ("http://192.168.257/", "192.168.1.1"),
    ("http://0xc0.0xa8.1.1/", "192.168.1.1"),
    ("http://100.64.0.1/", "100.64.0.1"),
    ("http://[fc00::1]/", "fc00::1"),
    ("http://[fdff::1]/", "fdff::1"),
    ("http://[fe80::1]/", "fe80::1"),
    ("http://[fec0::1]/", "fec0::1"),
    ("http://[2002:c0a8:101::]/", "2002:c0a8:101::"),
    ("http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
    // Of no single machine, or of none at all
    ("http://224.0.0.1/", "224.0.0.1"),
    ("http://239.255.255.250/", "239.255.255.250"),
    ("http://255.255.255.255/", "255.255.255.255"),
    ("http://4294967295/", "255.255.255.255"),
    ("http://240.0.0.1/", "240.0.0.1"),
    ("http://192.0.2.1/", "192.0.2.1"),
    ("http://198.51.100.1/", "198.51.100.1"),
    ("http://203.0.113.1/", "203.0.113.1"),
    ("http://198.18.0.1/", "198.18.0.1"),
    ("http://192.88.99.1/", "192.88.99.1"),
    ("http://[ff02::1]/", "ff02::1"),
    ("http://[100::1]/", "100::1"),
    ("http://[2001:db8::1]/", "2001:db8::1"),
    ("http://[2001:2::1]/", "2001:2::1"),
    ("http://[2001:20::1]/", "2001:20::1"),
    ("http://[3fff::1]/", "3fff::1"),
    ("http://[5f00::1]/", "5f00::1"),
    ("http://[4000::1]/", "4000::1"),
];

const UNREADABLE: &[&str] = &[
    "",
    "127.0.0.1",
    "//127.0.0.1/",
    "http://",
    "http:///",
    "http://127.0.0.1.5/",
    "http://127.0.0.256/",
    "http://4294967296/",
    "http://0x100000000/",
    "http://127.0.0.0x100/",
    "http://[::1/",
    "http://::1/",
    "http://[::1]x/",
    "http://[fe80::1%25eth0]/",
    "http://[fe80::1%eth0]/",
    "http://[::ffff:127.1]/",
    "http://[::ffff:0x7f.0.0.1]/",
    "http://exa mple.com/",
    "http://example.com:99999/",
    "http://127.0.0.1%00.example.com/",
];

#[test]
fn no_spelling_of_an_address_within_gets_through() {
    for (url, address) in REFUSED {
        match Target::parse(url, &Allowed::default()) {
            Err(BadTarget::Refused(refused)) => {
                assert_eq!(refused.address, address.parse::<IpAddr>().unwrap(), "{url:?}")
            }
            other => panic!("{url:?} gave {other:?}"),
        }
    }
    for url in UNREADABLE {
        let bad = Target::parse(url, &Allowed::default());
        assert!(matches!(bad, Err(BadTarget::Unreadable(_))), "{url:?} gave {bad:?}");
    }
    assert!(REFUSED.len() >= 60, "{}", REFUSED.len());
}

#[test]
fn only_http_without_a_login_is_a_target() {
    let cases = [
        ("ftp://example.com/", BadTarget::Scheme),
        ("file:///etc/passwd", BadTarget::Scheme),
        ("gopher://127.0.0.1:6379/_FLUSHALL", BadTarget::Scheme),
        ("unix:/run/docker.sock", BadTarget::Scheme),
        ("ws://example.com/", BadTarget::Scheme),
        ("data:text/plain,x", BadTarget::Scheme),
        ("http://user@example.com/", BadTarget::Login),
        ("http://:password@example.com/", BadTarget::Login),
        ("http://example.com@127.0.0.1/", BadTarget::Login),
        ("https://user:password@example.com/", BadTarget::Login),
    ];
    for (url, expected) in cases {
        assert_eq!(Target::parse(url, &Allowed::default()), Err(expected), "{url}");
    }
    let error = Target::parse("https://user:hunter2@example.com/s3cret", &Allowed::default()).unwrap_err();
    assert!(!error.to_string().contains("hunter2") && !error.to_string().contains("s3cret"), "{error}");
}

#[test]
fn what_is_public_is_let_through_as_it_is_read() {
    let cases = [
        ("https://example.com/hook?key=1", "https://example.com/hook?key=1"),
        ("http://example.com", "http://example.com/"),
        ("https://EXAMPLE.com:443/", "https://example.com/"),
        ("http://8.8.8.8:8080/a", "http://8.8.8.8:8080/a"),
        ("http://134744072/", "http://8.8.8.8/"),
        ("https://[2606:4700:4700::1111]/", "https://[2606:4700:4700::1111]/"),
        ("https://bücher.example/:id", "https://xn--bcher-kva.example/:id"),
        ("https://example.com/@127.0.0.1/", "https://example.com/@127.0.0.1/"),
        // What these lead to is judged when they are resolved
        ("http://localhost/", "http://localhost/"),
        ("http://127.0.0.1.example.com/", "http://127.0.0.1.example.com/"),
    ];
    for (url, read) in cases {
        assert_eq!(Target::parse(url, &Allowed::default()).unwrap().url().as_str(), read);
    }
    let own = Allowed::new(vec!["127.0.0.0/8".parse().unwrap()]);
    assert_eq!(Target::parse("http://0x7f.1:8000/", &own).unwrap().url().as_str(), "http://127.0.0.1:8000/");
}

/// Answers each request with 200, and counts them.
fn server() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if stream.read(&mut [0; 1024]).unwrap() > 0 {
                count.fetch_add(1, Ordering::SeqCst);
                stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
            }
        }
    });
    (address, requests)
}

/// Each look-up has the next of `answers`.
fn resolver(allowed: &[&str], answers: &[&[&str]]) -> Resolver {
    let allowed = Allowed::new(allowed.iter().map(|network| network.parse().unwrap()).collect());
    let parsed = |answer: &&[&str]| answer.iter().map(|address| address.parse().unwrap()).collect();
    let answers: Vec<Vec<SocketAddr>> = answers.iter().map(parsed).collect();
    let answers = Mutex::new(answers.into_iter());
    let lookup = move |_| -> BoxFuture<'static, _> {
        let answer = answers.lock().unwrap().next().unwrap_or_default();
        Box::pin(async move { Ok(answer) })
    };
    Resolver::with(Arc::new(ArcSwap::from_pointee(allowed)), Arc::new(lookup))
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// An error and what caused it.
fn whole(error: &dyn Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", whole(cause)),
        None => error.to_string(),
    }
}

#[test]
fn a_name_that_leads_within_is_not_called() {
    let (address, requests) = server();
    let url = format!("http://rebinding.example:{}/", address.port());
    wait(async {
        // A name whose second answer is another one than its first, which was allowed
        let answers: [&[&str]; 2] = [&["127.0.0.1:0"], &["127.0.0.2:0"]];
        let client = client(resolver(&["127.0.0.1/32"], &answers)).timeout(Duration::from_secs(30)).build().unwrap();
        assert_eq!(client.post(&url).send().await.unwrap().status(), 200);
        let error = client.post(&url).send().await.unwrap_err();
        assert!(
            whole(&error).contains("rebinding.example may not be called: 127.0.0.2 is a loopback address"),
            "{}",
            whole(&error)
        );
    });
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[test]
fn the_systems_own_names_for_this_machine_are_not_called() {
    let (address, requests) = server();
    wait(async {
        let client = client(Resolver::new(Arc::default())).timeout(Duration::from_secs(30)).build().unwrap();
        for host in ["localhost", "LOCALHOST"] {
            let url = format!("http://{host}:{}/", address.port());
            let error = client.post(&url).send().await.unwrap_err();
            assert!(whole(&error).contains("may not be called"), "{host}: {}", whole(&error));
        }
    });
    assert_eq!(requests.load(Ordering::SeqCst), 0);
}

#[test]
fn of_the_addresses_of_a_name_only_those_that_are_allowed_are_tried() {
    let mixed: &[&str] = &["10.0.0.1:0", "8.8.8.8:0", "[::1]:0", "[2606:4700::1%3]:0", "[2606:4700::2]:0"];
    let resolver = resolver(&[], &[mixed, &["[2606:4700::1%3]:0", "10.0.0.1:0"], &[]]);
    let resolve = || wait(resolver.resolve("mixed.example".parse().unwrap()));
    let open: Vec<String> = resolve().unwrap().map(|address| address.ip().to_string()).collect();
    assert_eq!(open, ["8.8.8.8", "2606:4700::2"]);
    let error = resolve().err().unwrap();
    assert!(error.to_string().contains("2606:4700::1 is an address of one interface"), "{error}");
    assert_eq!(resolve().unwrap().count(), 0);
}

/// The system's resolver has a thread for each, and may hold it for a minute.
#[test]
fn a_name_is_looked_up_once_for_all_that_need_it_at_the_time() {
    let (begun, (end, ended)) = (Arc::new(AtomicUsize::new(0)), tokio::sync::watch::channel(false));
    let count = Arc::clone(&begun);
    let lookup = move |host: String| -> BoxFuture<'static, _> {
        count.fetch_add(1, Ordering::SeqCst);
        let mut ended = ended.clone();
        Box::pin(async move {
            let _ = ended.wait_for(|ended| *ended).await;
            match host.as_str() {
                "slow.example" => Ok(vec!["8.8.8.8:0".parse().unwrap()]),
                _ => Err(io::Error::other("no such name")),
            }
        })
    };
    let resolver = Resolver::with(Arc::default(), Arc::new(lookup));
    let resolve = |name: &str| resolver.resolve(name.parse().unwrap());
    wait(async {
        // One that gives up leaves the look-up to the others
        let given_up = tokio::time::timeout(Duration::from_millis(10), resolve("slow.example")).await;
        assert!(given_up.is_err());
        let many: Vec<_> = (0..1000).map(|n| tokio::spawn(resolve(["slow.example", "none.example"][n % 2]))).collect();
        while begun.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        end.send(true).unwrap();
        for (n, one) in many.into_iter().enumerate() {
            match one.await.unwrap() {
                Ok(found) => assert_eq!((n % 2, found.count()), (0, 1)),
                Err(error) => assert_eq!((n % 2, error.to_string().as_str()), (1, "no such name")),
            }
        }
        assert_eq!(begun.load(Ordering::SeqCst), 2);
        // What was found is of the past
        assert_eq!(resolve("slow.example").await.unwrap().count(), 1);
        assert_eq!(begun.load(Ordering::SeqCst), 3);
    });
}

#[test]
fn a_redirect_is_not_followed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://redirects.example:{}/", listener.local_addr().unwrap().port());
    let answers = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let length = stream.read(&mut [0; 1024]).unwrap();
        let answer = "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
        length
    });
    let status = wait(async {
        let client = client(resolver(&["127.0.0.1/32"], &[&["127.0.0.1:0"]])).build().unwrap();
        client.post(&url).send().await.unwrap().status()
    });
    assert_eq!(status, 307);
    assert!(answers.join().unwrap() > 0);
}

#[test]
fn a_proxy_of_the_environment_is_not_used() {
    // Another process, as the environment of this one is for all of its tests
    let mut again = Command::new(std::env::current_exe().unwrap());
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        again.env(name, "http://127.0.0.1:1");
    }
    let test = "webhook::target::tests::a_name_that_leads_within_is_not_called";
    let output = again.args(["--exact", test]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
