//! What docker-compose.yml and the Dockerfile name exists: targets, services, volumes, commands, flags, variables.
//! No container engine is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use yaml_rust2::{Yaml, YamlLoader};

use crate::support::{Metrobus, Scratch};

const ROLES: [&str; 7] = ["pusher", "busdriver", "contactpoint", "whitelist", "logstop", "gateway", "deliver"];

#[test]
fn each_role_has_a_target_and_a_service() {
    let (stages, compose) = (stages(), compose());
    for role in ROLES {
        assert_eq!(compose.service(role).target(), Some(role));
        assert_eq!(stages[role].entrypoint, ["metrobus", role]);
    }
    for service in compose.services() {
        match service.target() {
            Some(target) => assert!(stages.contains_key(target), "{}: no target {target}", service.name),
            None => assert!(service.text("image").contains(':'), "{}: an image without a tag", service.name),
        }
    }
}

#[test]
fn no_image_of_ours_runs_as_root() {
    let stages = stages();
    for name in compose().services().iter().filter_map(Service::target) {
        let user = inherited(&stages, name, |stage| stage.user.clone()).unwrap_or_default();
        assert!(!["", "0", "root"].contains(&user.as_str()), "the target {name} runs as {user:?}");
    }
}

#[test]
fn the_builder_is_not_older_than_the_crate_asks() {
    let image = stages()["build"].from.clone();
    let tag = image.strip_prefix("rust:").expect("the builder is the Rust image");
    let version = |text: &str| -> Vec<u32> { text.split('.').map(|n| n.parse().expect("a number")).collect() };
    let builder = version(tag.split('-').next().expect("a version"));
    assert!(builder >= version(env!("CARGO_PKG_RUST_VERSION")), "{image} is too old");
}

#[test]
fn each_command_and_flag_exists() {
    let stages = stages();
    for service in compose().services() {
        let Some(target) = service.target() else { continue };
        let mut call =
            inherited(&stages, target, |s| Some(s.entrypoint.clone()).filter(|e| !e.is_empty())).expect(target);
        assert_eq!(call.remove(0), "metrobus", "{}", service.name);
        call.extend(service.list("command"));
        // Arguments are read from left to right: help is reached only past what is valid.
        let output = Metrobus::new().args(&call).arg("--help").run().assert_code(0);
        assert!(output.stdout_text().contains("Usage: metrobus"), "{call:?}: {output:?}");

        let output = Metrobus::new().args(&call).args(["--no-such-flag", "--help"]).run();
        assert_eq!(output.code, Some(2), "{call:?}: an unknown flag was taken");
    }
}

#[test]
fn each_environment_variable_is_a_key_of_the_configuration() {
    let scratch = Scratch::new();
    let config = |environment: &BTreeMap<String, String>| {
        let call = Metrobus::new().arg("config").cwd(scratch.root());
        environment.iter().fold(call, |call, (name, value)| call.env(name, value)).run()
    };
    let mut names = BTreeSet::new();
    for service in compose().services().iter().filter(|s| s.target().is_some()) {
        let environment = service.environment();
        config(&environment).assert_code(0);
        names.extend(environment.into_keys());
    }
    assert!(names.contains("METROBUS__KAFKA__BROKERS"), "{names:?}");
    for name in names {
        assert!(name.starts_with("METROBUS__"), "{name}");
        let misspelt = BTreeMap::from([(format!("{name}X"), "kafka".to_owned())]);
        config(&misspelt).assert_code(78);
    }
}

#[test]
fn services_and_volumes_that_are_named_exist() {
    let compose = compose();
    let services: BTreeSet<_> = compose.services().into_iter().map(|s| s.name).collect();
    for service in compose.services() {
        for dependency in service.dependencies() {
            assert!(services.contains(&dependency), "{} waits for {dependency}", service.name);
        }
        for mount in service.list("volumes") {
            let volume = mount.split(':').next().unwrap_or_default();
            assert!(!compose.0["volumes"][volume].is_badvalue(), "{}: no volume {volume}", service.name);
        }
    }
}

#[test]
fn the_stops_look_for_kafka_and_redis_where_they_are() {
    let compose = compose();
    let environment = compose.service("busdriver").environment();
    let kafka = compose.service("kafka").environment();
    let internal = format!("INTERNAL://{}", environment["METROBUS__KAFKA__BROKERS"]);
    assert!(kafka["KAFKA_ADVERTISED_LISTENERS"].split(',').any(|l| l == internal), "{kafka:?}");
    let redis = &environment["METROBUS__REDIS__URL"];
    assert!(redis.starts_with("redis://redis:6379"), "{redis}: Redis listens at its usual port");
}

/// Where the plugin happens to be installed, compose itself reads the file.
#[test]
fn compose_accepts_the_file() {
    let compose = |arguments: &[&str]| {
        let mut command = Command::new("docker");
        command.arg("compose").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
        command.output()
    };
    if compose(&["version"]).is_ok_and(|output| output.status.success()) {
        let output = compose(&["config", "--quiet"]).expect("run docker compose config");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// docker-compose.yml, parsed.
struct Compose(Yaml);

struct Service {
    name: String,
    yaml: Yaml,
}

fn compose() -> Compose {
    let text = include_str!("../../docker-compose.yml");
    let mut documents = YamlLoader::load_from_str(text).expect("docker-compose.yml is YAML");
    assert_eq!(documents.len(), 1, "one document");
    Compose(documents.remove(0))
}

impl Compose {
    fn services(&self) -> Vec<Service> {
        let services = self.0["services"].as_hash().expect("a mapping of services");
        let service = |(name, yaml): (&Yaml, &Yaml)| Service { name: text(name), yaml: yaml.clone() };
        services.iter().map(service).collect()
    }

    fn service(&self, name: &str) -> Service {
        let found = self.services().into_iter().find(|service| service.name == name);
        found.unwrap_or_else(|| panic!("no service {name}"))
    }
}

impl Service {
    /// The stage of the Dockerfile that the image of this service is; `None` for an image of others.
    fn target(&self) -> Option<&str> {
        self.yaml["build"]["target"].as_str()
    }

    fn text(&self, key: &str) -> String {
        text(&self.yaml[key])
    }

    /// The texts of a list; empty where it is missing.
    fn list(&self, key: &str) -> Vec<String> {
        match &self.yaml[key] {
            Yaml::BadValue => Vec::new(),
            list => list.as_vec().expect(key).iter().map(text).collect(),
        }
    }

    fn environment(&self) -> BTreeMap<String, String> {
        match &self.yaml["environment"] {
            Yaml::BadValue => BTreeMap::new(),
            map => map.as_hash().expect("a mapping").iter().map(|(k, v)| (text(k), text(v))).collect(),
        }
    }

    fn dependencies(&self) -> Vec<String> {
        match &self.yaml["depends_on"] {
            Yaml::Hash(map) => map.keys().map(text).collect(),
            _ => self.list("depends_on"),
        }
    }
}

/// Compose wants texts: a bare number or `yes` would reach the container as something else.
fn text(yaml: &Yaml) -> String {
    yaml.as_str().unwrap_or_else(|| panic!("{yaml:?} is not a text, quote it")).to_owned()
}

/// One stage of the Dockerfile.
#[derive(Debug, Default)]
struct Stage {
    from: String,
    entrypoint: Vec<String>,
    user: Option<String>,
}

/// The stages by name. Panics where a line is not understood or a stage that it copies from is missing.
fn stages() -> BTreeMap<String, Stage> {
    let text = include_str!("../../Dockerfile").replace("\\\n", " ");
    let mut stages = BTreeMap::<String, Stage>::new();
    let mut current = String::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (instruction, rest) = line.split_once(char::is_whitespace).expect("an instruction and its arguments");
        if instruction == "FROM" {
            let (from, name) = rest.split_once(" AS ").expect("FROM IMAGE AS NAME");
            let stage = Stage { from: from.to_owned(), ..Stage::default() };
            assert!(stages.insert(name.to_owned(), stage).is_none(), "two stages {name}");
            current = name.to_owned();
            continue;
        }
        if let Some(from) = rest.strip_prefix("--from=") {
            let name = from.split_whitespace().next().unwrap_or_default();
            assert!(stages.contains_key(name), "{line}: no such stage");
        }
        let stage = stages.get_mut(&current).expect("FROM comes first");
        match instruction {
            "ENTRYPOINT" => stage.entrypoint = serde_json::from_str(rest).expect("the JSON form"),
            "USER" => stage.user = Some(rest.to_owned()),
            "COPY" | "RUN" | "WORKDIR" => {}
            other => panic!("the instruction {other} is new to this test"),
        }
    }
    stages
}

/// What a stage or the nearest of its ancestors says.
fn inherited<T>(stages: &BTreeMap<String, Stage>, name: &str, get: impl Fn(&Stage) -> Option<T>) -> Option<T> {
    let mut name = name;
    while let Some(stage) = stages.get(name) {
        if let Some(value) = get(stage) {
            return Some(value);
        }
        name = &stage.from;
    }
    None
}
