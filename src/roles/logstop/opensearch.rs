//! Documents into OpenSearch or Elasticsearch, by requests to `_bulk`.
//!
//! What can come of a batch:
//! - the server has all documents: the messages are finished;
//! - it refuses a document for what is in it, a field of another type say: that message alone is a dead letter;
//! - it is away, busy (429, 5xx), or says no to all alike: the stop waits and writes the batch again. Where the answer has
//!   a `Retry-After` in seconds, nothing is sent before that time is over, up to a minute.
//!
//! The interface is that of `_bulk` in OpenSearch 1 to 3 and Elasticsearch 7 to 9.

use std::{
    borrow::Cow,
    fs,
    io::Read as _,
    ops::Range,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use reqwest::{
    Certificate, StatusCode, Url,
    blocking::{Client, RequestBuilder, Response},
    header::{CONTENT_TYPE, RETRY_AFTER},
    redirect::Policy,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{OUTPUT, document::Documents};
use crate::{bus::Topic, config::Config, error::Misconfigured, handler::Verdict, json, slip::Message, terminal::plain};

/// `[logstop.opensearch]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    /// What the names of indices begin with.
    index: String,
    /// "" sends no login.
    user: String,
    password: String,
    /// Holds the password, in place of the key above; "" is none.
    password_file: PathBuf,
    /// PEM, of the authorities to trust in place of the system's; "" is none.
    ca: PathBuf,
    /// For connecting, and for each answer.
    timeout: Duration,
    /// Most bytes of a request, unless a single document has more.
    bulk_bytes: usize,
}

/// What is asked of the answer: what went wrong, and no more.
const BULK: &str = "_bulk?filter_path=errors,items.*.status,items.*.error.type,items.*.error.reason";

/// Nothing is put off for longer, whatever the server says.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// An answer is no longer than this and what it quotes of the documents.
const ANSWER: u64 = 16 << 20;

/// A reason is cut after so many characters.
const REASON: usize = 300;

/// Errors of single documents that are none of theirs: every other document would meet with them too.
const NOT_THE_DOCUMENTS: &[&str] = &[
    "illegal_index_shard_state_exception",
    "index_closed_exception",
    "index_create_block_exception",
    "invalid_index_name_exception",
    // Too many shards for another index
    "validation_exception",
];

pub(super) struct OpenSearch {
    client: Client,
    /// Without a slash at the end.
    url: String,
    login: Option<Login>,
    index: String,
    topic: Topic,
    bulk_bytes: usize,
    documents: Documents,
    /// The server wants to be left alone until then.
    rests: Option<Instant>,
}

struct Login {
    user: String,
    password: String,
    /// Where the password stands now.
    file: Option<PathBuf>,
}

impl OpenSearch {
    /// A sink for what comes from `topic`, at the URL `output`. Nothing is sent yet.
    pub fn new(output: &str, options: &Options, topic: &Topic, config: &Config) -> Result<Self, Misconfigured> {
        let url = parse_url(output).map_err(|what| config.error(OUTPUT, what))?;
        if let Err(what) = check_index(&options.index) {
            return Err(config.error("logstop.opensearch.index", what));
        }
        if options.timeout.is_zero() {
            return Err(config.error("logstop.opensearch.timeout", "must be more than zero"));
        }
        let login = Login::new(options).map_err(|(key, what)| config.error(key, what))?;
        let ca =
            authorities(&options.ca).map_err(|error| config.error("logstop.opensearch.ca", format!("{error:#}")))?;
        let client = client(options.timeout, ca)
            .map_err(|error| config.error(OUTPUT, format!("cannot be used: {:#}", anyhow!(error))))?;
        Ok(Self {
            client,
            url,
            login,
            index: options.index.clone(),
            topic: topic.clone(),
            bulk_bytes: options.bulk_bytes,
            documents: Documents::default(),
            rests: None,
        })
    }

    /// Whether the server is there and takes the login, within `patience`.
    pub fn connect(&mut self, patience: Duration) -> anyhow::Result<()> {
        self.rest()?;
        if let Some(login) = &mut self.login {
            login.refresh()?;
        }
        let request = self.client.get(&self.url).timeout(patience);
        let answer = self.send(request)?;
        match answer.status() {
            // Who may write documents need not be one who may ask how the cluster is
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Ok(()),
            status if status.is_success() => Ok(()),
            _ => Err(self.refusal(answer)),
        }
    }

    /// Writes the messages as documents. Fails where the server does not take them for now; then they can all be written
    /// again, and those that it has taken are overwritten.
    pub fn write(&mut self, messages: &[Message<'_>], now: SystemTime) -> anyhow::Result<Vec<Verdict>> {
        self.rest()?;
        let mut documents = std::mem::take(&mut self.documents);
        documents.fill(messages, &self.index, &self.topic, now);
        let verdicts = self.write_all(&documents);
        self.documents = documents;
        verdicts
    }

    fn write_all(&mut self, documents: &Documents) -> anyhow::Result<Vec<Verdict>> {
        let mut verdicts = Vec::with_capacity(documents.len());
        let mut bytes = self.bulk_bytes;
        while verdicts.len() < documents.len() {
            let range = documents.fitting(verdicts.len(), bytes);
            let lines = documents.lines(range.clone());
            let request = self.client.post(format!("{}/{BULK}", self.url));
            let answer = self.send(request.header(CONTENT_TYPE, "application/x-ndjson").body(lines.to_vec()))?;
            match answer.status() {
                StatusCode::OK => self.judge(answer, &range, lines.len(), &mut verdicts)?,
                // Something before the server may take less than the server
                StatusCode::PAYLOAD_TOO_LARGE if range.len() > 1 => bytes = lines.len() / 2,
                StatusCode::PAYLOAD_TOO_LARGE => {
                    verdicts.push(Verdict::reject(format!("refused by the sink: too long, {} bytes", lines.len())));
                }
                _ => return Err(self.refusal(answer)),
            }
        }
        Ok(verdicts)
    }

    /// Adds what came of the documents of one request.
    fn judge(
        &self,
        answer: Response,
        range: &Range<usize>,
        sent: usize,
        verdicts: &mut Vec<Verdict>,
    ) -> anyhow::Result<()> {
        // What is quoted of a document may be spelt with more bytes
        let limit = ANSWER + 8 * sent as u64;
        let mut body = Vec::new();
        let read = answer.take(limit).read_to_end(&mut body);
        read.with_context(|| format!("read the answer of {}", self.url))?;
        let body = String::from_utf8_lossy(&body);
        // What serde says of it would quote it
        let Answer { errors, items } = serde_json::from_str(&body)
            .map_err(|_| anyhow!("{} answers with something else than OpenSearch would", self.url))?;
        if !errors {
            verdicts.extend(range.clone().map(|_| Verdict::Finish));
            return Ok(());
        }
        let (told, count) = (items.len(), range.len());
        ensure!(told == count, "{} tells of {told} documents, was sent {count}", self.url);
        for Item { index } in &items {
            verdicts.push(index.verdict().with_context(|| format!("{} does not take all documents", self.url))?);
        }
        Ok(())
    }

    fn send(&self, mut request: RequestBuilder) -> anyhow::Result<Response> {
        if let Some(Login { user, password, .. }) = &self.login {
            request = request.basic_auth(user, Some(password));
        }
        request.send().map_err(|error| anyhow!(error.without_url())).with_context(|| format!("reach {}", self.url))
    }

    /// Fails while the server rests.
    fn rest(&mut self) -> anyhow::Result<()> {
        let left = self.rests.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        ensure!(left.is_zero(), "{} is busy and asked not to be asked for another {:.0?}", self.url, left);
        self.rests = None;
        Ok(())
    }

    /// What an answer says that is none to the request.
    fn refusal(&mut self, answer: Response) -> anyhow::Error {
        let status = answer.status();
        let seconds = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        if let Some(seconds) = seconds {
            self.rests = Some(Instant::now() + Duration::from_secs(seconds).min(LONGEST_WAIT));
        }
        let url = &self.url;
        match status {
            StatusCode::UNAUTHORIZED => {
                // Where the password has changed, the next attempt has the new one
                if let Some(Err(error)) = self.login.as_mut().map(Login::refresh) {
                    return error;
                }
                anyhow!("{url} refuses the login ({status}), see logstop.opensearch.user and its password")
            }
            StatusCode::FORBIDDEN => anyhow!("{url} does not let the user write to {}-* ({status})", self.index),
            _ => anyhow!("{url} answers {status}"),
        }
    }
}

impl Login {
    /// What is wrong comes with its key.
    fn new(options: &Options) -> Result<Option<Self>, (&'static str, String)> {
        let (password, file) = (&options.password, &options.password_file);
        let has_file = !file.as_os_str().is_empty();
        if options.user.is_empty() {
            let set = [("password", !password.is_empty()), ("password_file", has_file)];
            return match set.into_iter().find(|(_, set)| *set) {
                Some((key, _)) => Err(("logstop.opensearch.user", format!("is empty, and {key} is set"))),
                None => Ok(None),
            };
        }
        if has_file && !password.is_empty() {
            return Err(("logstop.opensearch.password_file", "is set, and password is set; take one of them".into()));
        }
        let file = has_file.then(|| file.clone());
        let mut login = Self { user: options.user.clone(), password: password.clone(), file };
        login.refresh().map_err(|error| ("logstop.opensearch.password_file", format!("{error:#}")))?;
        Ok(Some(login))
    }

    /// Reads the password where it is in a file, which may have changed.
    fn refresh(&mut self) -> anyhow::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        self.password = text.trim_end_matches(['\r', '\n']).to_owned();
        Ok(())
    }
}

/// The answer to a request.
#[derive(Deserialize)]
struct Answer<'a> {
    errors: bool,
    #[serde(borrow, default)]
    items: Vec<Item<'a>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    index: Outcome<'a>,
}

/// What came of one document.
#[derive(Deserialize)]
struct Outcome<'a> {
    status: u16,
    #[serde(borrow)]
    error: Option<Cause<'a>>,
}

/// JSON as it is spelt: a reason may quote what is no Unicode.
#[derive(Deserialize)]
struct Cause<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    reason: Option<&'a RawValue>,
}

impl Outcome<'_> {
    /// Fails where the document is not to blame.
    fn verdict(&self) -> anyhow::Result<Verdict> {
        if (200..300).contains(&self.status) {
            return Ok(Verdict::Finish);
        }
        let kind = self.error.as_ref().and_then(|error| error.kind).map_or_else(|| "no reason".into(), spelt);
        if !matches!(self.status, 400 | 413) || NOT_THE_DOCUMENTS.contains(&kind.as_ref()) {
            bail!("{} {kind}", self.status);
        }
        let reason = self.error.as_ref().and_then(|error| error.reason).map_or_else(|| "no reason".into(), spelt);
        // From there on it quotes the payload
        let reason = reason.split(" Preview of field's value").next().unwrap_or_default();
        let reason: String = plain(reason).chars().take(REASON).collect();
        Ok(Verdict::reject(format!("refused by the sink: {kind}: {reason}")))
    }
}

/// The text of a JSON string; what spells none stays as it is.
fn spelt(raw: &RawValue) -> Cow<'_, str> {
    let raw = raw.get();
    json::text(raw).unwrap_or_else(|| raw.trim_matches('"').into())
}

/// The URL of the server, without a slash at the end; or what is wrong with it, which quotes none of it.
fn parse_url(output: &str) -> Result<String, String> {
    let url = Url::parse(output).map_err(|error| format!("is no URL: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a login; set logstop.opensearch.user and .password".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must end with the path, without ? and #".into());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// What a name of an index may begin with:
/// <https://docs.opensearch.org/latest/api-reference/index-apis/create-index/#index-naming-restrictions>.
fn check_index(prefix: &str) -> Result<(), &'static str> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    if prefix.is_empty() || prefix.len() > 200 || !prefix.bytes().all(legal) || prefix.starts_with(['-', '_', '.']) {
        return Err("must be 1 to 200 of a-z 0-9 - _ . and begin with a letter or digit");
    }
    Ok(())
}

fn authorities(path: &PathBuf) -> anyhow::Result<Vec<Certificate>> {
    if path.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let pem = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let certificates = Certificate::from_pem_bundle(&pem).with_context(|| format!("{} is no PEM", path.display()))?;
    ensure!(!certificates.is_empty(), "{} holds no certificate", path.display());
    Ok(certificates)
}

fn client(timeout: Duration, ca: Vec<Certificate>) -> reqwest::Result<Client> {
    crate::tls::use_ring();
    // Straight to where the configuration says: no proxy of the environment, no redirection, with a login in hand
    let builder = Client::builder()
        .user_agent(concat!("metrobus/", env!("CARGO_PKG_VERSION")))
        .timeout(timeout)
        .connect_timeout(timeout)
        .no_proxy()
        .redirect(Policy::none());
    match ca.is_empty() {
        true => builder.build(),
        false => builder.tls_certs_only(ca).build(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(item: &str) -> Result<Verdict, String> {
        let Item { index } = serde_json::from_str(item).unwrap();
        index.verdict().map_err(|error| error.to_string())
    }

    #[test]
    fn a_document_is_refused_for_what_is_in_it_and_waited_for_else() {
        assert_eq!(verdict(r#"{"index":{"status":201}}"#), Ok(Verdict::Finish));
        let item = |status: u16, kind: &str, reason: &str| {
            format!(r#"{{"index":{{"status":{status},"error":{{"type":"{kind}","reason":"{reason}"}}}}}}"#)
        };
        let refused = |reason: &str| Ok(Verdict::reject(format!("refused by the sink: {reason}")));
        assert_eq!(
            verdict(&item(400, "mapper_parsing_exception", "no field [d] in 'x'. Preview of field's value: 's3cret'")),
            refused("mapper_parsing_exception: no field [d] in 'x'.")
        );
        for (spelt, text) in [("\\ud800 is no text", "\\ud800 is no text"), ("\\u001b[2J", "\u{fffd}[2J")] {
            assert_eq!(verdict(&item(400, "a", spelt)), refused(&format!("a: {text}")));
        }
        assert_eq!(verdict(r#"{"index":{"status":400}}"#), refused("no reason: no reason"));
        let Ok(Verdict::Reject(long)) = verdict(&item(400, "a", &"x".repeat(1000))) else { panic!("refused") };
        assert_eq!(long.len(), "refused by the sink: a: ".len() + REASON);
        for (status, kind) in [
            (429, "rejected_execution_exception"),
            (503, "unavailable_shards_exception"),
            (403, "cluster_block_exception"),
            (404, "index_not_found_exception"),
            (400, "validation_exception"),
            (400, "index_closed_exception"),
        ] {
            assert_eq!(verdict(&item(status, kind, "why")), Err(format!("{status} {kind}")));
        }
    }

    #[test]
    fn a_url_is_one_of_a_server() {
        assert_eq!(parse_url("http://localhost:9200"), Ok("http://localhost:9200".into()));
        assert_eq!(parse_url("https://x.example/search/"), Ok("https://x.example/search".into()));
        for (url, wrong) in [
            ("http://", "is no URL: empty host"),
            ("http://x:port", "is no URL: invalid port number"),
            ("http://me:s3cret@x", "must not hold a login"),
            ("http://me@x", "must not hold a login"),
            ("http://x/?pretty", "must end with the path"),
        ] {
            let error = parse_url(url).unwrap_err();
            assert!(error.contains(wrong) && !error.contains("s3cret"), "{url}: {error}");
        }
    }

    #[test]
    fn an_index_has_a_name_that_is_taken() {
        for name in ["metro-bus", "a", "7_x.y"] {
            assert_eq!(check_index(name), Ok(()), "{name}");
        }
        for name in ["", "Metro", "-a", "_a", ".a", "a b", "a/b", "a\"b", "é", &"a".repeat(201)] {
            assert!(check_index(name).is_err(), "{name}");
        }
    }
}
