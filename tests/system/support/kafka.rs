//! A real Kafka broker: one that all tests share, or one that a test may stop, with TLS and SASL beside where asked.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rdkafka::ClientConfig;

use super::server::Server;
use super::{Scratch, Signal, free_port, given, skip};

const START: Duration = Duration::from_secs(60);

/// A single-node broker. What can be done on it stands in kafka_client.rs.
pub struct Kafka {
    brokers: String,
    private: Option<Private>,
}

/// Fields drop in order: the process ends before its folder goes.
struct Private {
    server: Server,
    secure: Option<Secure>,
    scratch: Scratch,
}

/// The listener of a private broker that wants TLS and SASL with SCRAM-SHA-512, and who may come in.
#[derive(Clone, Debug)]
pub struct Secure {
    /// The bootstrap servers, as an address that the certificate holds.
    pub brokers: String,
    pub user: String,
    pub password: String,
    /// The certificate of the authority in PEM, for `ssl.ca.location`.
    pub ca: PathBuf,
}

impl Secure {
    /// The properties of librdkafka with which a client gets in.
    pub fn properties(&self) -> Vec<(&'static str, String)> {
        vec![
            ("security.protocol", "SASL_SSL".to_owned()),
            ("sasl.mechanism", "SCRAM-SHA-512".to_owned()),
            ("sasl.username", self.user.clone()),
            ("sasl.password", self.password.clone()),
            ("ssl.ca.location", self.ca.display().to_string()),
        ]
    }

    /// A configuration that gets in.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        for (key, value) in self.properties() {
            config.set(key, value);
        }
        config
    }
}

impl Kafka {
    /// The broker that all tests share. It cannot be stopped; topics and groups are kept apart by [`super::unique`].
    pub fn shared() -> Option<Kafka> {
        match given("METROBUS_TEST_KAFKA") {
            None => skip("no Kafka: METROBUS_TEST_KAFKA is not set, scripts/with-services.sh sets it"),
            Some(brokers) => Some(Kafka { brokers, private: None }),
        }
    }

    /// A broker of its own, whose data outlives [`kill`](Kafka::kill) and [`stop`](Kafka::stop).
    pub fn start() -> Option<Kafka> {
        Kafka::start_with(false)
    }

    /// As [`start`](Kafka::start), with a second listener for TLS and SASL: see [`secure`](Kafka::secure).
    pub fn start_secure() -> Option<Kafka> {
        Kafka::start_with(true)
    }

    fn start_with(secure: bool) -> Option<Kafka> {
        let Some(libs) = given("METROBUS_TEST_KAFKA_LIBS") else {
            return skip("no Kafka: METROBUS_TEST_KAFKA_LIBS is not set, scripts/with-services.sh sets it");
        };
        let java =
            Java { binary: given("METROBUS_TEST_JAVA").unwrap_or_else(|| "java".into()).into(), libs: libs.into() };
        let mut last = String::new();
        for _ in 0..3 {
            match Kafka::launch(&java, secure) {
                Ok(kafka) => return Some(kafka),
                Err(reason) => last = reason, // a port may have been taken meanwhile
            }
        }
        panic!("{last}");
    }

    fn launch(java: &Java, secure: bool) -> Result<Kafka, String> {
        let scratch = Scratch::new();
        let port = free_port();
        let secure = secure.then(|| Secure::prepare(java, &scratch));
        let config = scratch.write("server.properties", server_properties(&scratch, port, secure.as_ref()));

        let mut format = java.tool("kafka.tools.StorageTool");
        format.args(["format", "-t", "metrobus-test", "-c"]).arg(&config);
        if let Some(Secure { user, password, .. }) = &secure {
            format.arg("--add-scram");
            format.arg(format!("SCRAM-SHA-512=[name={user},password={password}]"));
        }
        run_tool(format)?;

        let java = java.clone();
        let server = Server::new("kafka", scratch.path("kafka.log"), move || {
            let mut command = java.command();
            command.args(["-Xms256m", "-Xmx512m", "-cp"]).arg(java.class_path());
            command.arg("kafka.Kafka").arg(&config);
            command
        });
        let mut kafka =
            Kafka { brokers: format!("127.0.0.1:{port}"), private: Some(Private { server, secure, scratch }) };
        kafka.launch_server()?;
        Ok(kafka)
    }

    fn launch_server(&mut self) -> Result<(), String> {
        self.private().server.start(START, |said| said.contains("Kafka Server started"))
    }

    /// The bootstrap servers of the plain listener.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// How to reach the listener with TLS and SASL. Panics unless started by [`start_secure`](Kafka::start_secure).
    pub fn secure(&self) -> &Secure {
        self.private.as_ref().and_then(|private| private.secure.as_ref()).expect("a broker of Kafka::start_secure()")
    }

    /// An orderly end of a private broker.
    pub fn stop(&mut self) {
        self.private().server.stop(Duration::from_secs(20));
    }

    /// SIGKILL to a private broker.
    pub fn kill(&mut self) {
        self.private().server.kill();
    }

    /// A private broker, ended before or not, comes back on its ports with its data. Returns when it has started; after
    /// a kill that is some three seconds later, when the session of its former life has ended.
    pub fn restart(&mut self) {
        self.stop();
        self.launch_server().unwrap_or_else(|reason| panic!("{reason}"));
    }

    /// A private broker stops answering without closing a connection, until [`resume`](Kafka::resume).
    pub fn pause(&mut self) {
        self.private().server.signal(Signal::STOP);
    }

    pub fn resume(&mut self) {
        self.private().server.signal(Signal::CONT);
    }

    fn private(&mut self) -> &mut Private {
        self.private.as_mut().expect("the Kafka is shared: a test that stops it takes Kafka::start()")
    }
}

/// The settings of scripts/kafka with the listeners and the folder of this broker.
fn server_properties(scratch: &Scratch, port: u16, secure: Option<&Secure>) -> String {
    let controller = free_port();
    let data = scratch.path("data");
    let mut listeners = format!("PLAINTEXT://127.0.0.1:{port}");
    let mut security = String::new();
    if let Some(secure) = secure {
        let keystore = scratch.path(KEYSTORE);
        listeners += &format!(",SECURE://{}", secure.brokers);
        security = format!(
            "ssl.keystore.type=PKCS12\n\
             ssl.keystore.location={}\n\
             ssl.keystore.password={KEYSTORE_PASSWORD}\n\
             listener.name.secure.sasl.enabled.mechanisms=SCRAM-SHA-512\n\
             listener.name.secure.scram-sha-512.sasl.jaas.config=\
             org.apache.kafka.common.security.scram.ScramLoginModule required;\n",
            keystore.display()
        );
    }
    format!(
        "{}\n\
         listeners={listeners},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners={listeners}\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         log.dirs={}\n\
         {security}",
        include_str!("../../../scripts/kafka/server.properties"),
        data.display()
    )
}

const KEYSTORE: &str = "broker.p12";
/// Guards a key that lives as long as the test.
const KEYSTORE_PASSWORD: &str = "for-one-test-only";

impl Secure {
    /// An authority, and a key of the broker for 127.0.0.1 that it has signed.
    fn prepare(java: &Java, scratch: &Scratch) -> Secure {
        let keytool = |arguments: &[&str]| {
            let mut command = Command::new(java.keytool());
            command.current_dir(scratch.root()).args(arguments);
            command.args(["-storetype", "PKCS12", "-storepass", KEYSTORE_PASSWORD]);
            run_tool(command).unwrap_or_else(|reason| panic!("{reason}"));
        };
        let ca = ["-keystore", "ca.p12", "-alias", "ca"];
        let broker = ["-keystore", KEYSTORE, "-alias", "broker"];
        let key = ["-keyalg", "EC", "-groupname", "secp256r1", "-validity", "2"];
        keytool(&[&["-genkeypair", "-dname", "CN=ca", "-ext", "bc=ca:true"], &ca[..], &key[..]].concat());
        keytool(&[&["-exportcert", "-rfc", "-file", "ca.pem"], &ca[..]].concat());
        keytool(&[&["-genkeypair", "-dname", "CN=broker"], &broker[..], &key[..]].concat());
        keytool(&[&["-certreq", "-file", "broker.csr"], &broker[..]].concat());
        keytool(
            &[
                &["-gencert", "-rfc", "-infile", "broker.csr", "-outfile", "broker.pem"],
                &["-ext", "san=ip:127.0.0.1,dns:localhost", "-validity", "2"][..],
                &ca[..],
            ]
            .concat(),
        );
        // The key's chain is complete only beside the authority that signed it.
        keytool(&["-importcert", "-noprompt", "-file", "ca.pem", "-keystore", KEYSTORE, "-alias", "ca"]);
        keytool(&[&["-importcert", "-noprompt", "-file", "broker.pem"], &broker[..]].concat());
        Secure {
            brokers: format!("127.0.0.1:{}", free_port()),
            user: "rider".to_owned(),
            password: super::unique("secret"),
            ca: scratch.path("ca.pem"),
        }
    }
}

/// The Java that runs the broker and its tools.
#[derive(Clone)]
struct Java {
    binary: PathBuf,
    libs: PathBuf,
}

impl Java {
    /// Java with options for a quick start; the class path and the class are still to come.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        let logging = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka/log4j2.properties");
        command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        command.arg(format!("-Dlog4j2.configurationFile={}", logging.display()));
        command
    }

    fn tool(&self, class: &str) -> Command {
        let mut command = self.command();
        command.arg("-cp").arg(self.class_path()).arg(class);
        command
    }

    /// Java itself expands the star.
    fn class_path(&self) -> PathBuf {
        self.libs.join("*")
    }

    fn keytool(&self) -> PathBuf {
        let beside = self.binary.with_file_name("keytool");
        if beside.is_absolute() && beside.exists() {
            return beside;
        }
        PathBuf::from("keytool")
    }
}

/// Runs a tool to its end. The error holds what it printed.
fn run_tool(mut command: Command) -> Result<(), String> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|e| format!("start {:?}: {e}", command.get_program()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{command:?} ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}
