//! Paths of commands, as `/books/{id}/finished`.

use std::{borrow::Cow, cmp::Ordering, fmt};

use percent_encoding::percent_decode_str;

use super::Parameters;

/// Where the gateway and what watches over it are.
const TAKEN: &[&str] =
    &["topics", "journeys", "publish", "refresh", "openapi.json", "metrics", "livez", "readyz", "healthcheck"];

/// A path whose segments are names or parameters. A parameter is a segment that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Name(String),
    Parameter(String),
}

impl Template {
    /// Fails with what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("{text:?} {what}"));
        let Some(rest) = text.strip_prefix('/') else { return wrong("must begin with /") };
        let mut segments: Vec<Segment> = Vec::new();
        for segment in rest.split('/') {
            let segment = match segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                Some(name) if !is_identifier(name) => return wrong("has a parameter whose name is not A-Z a-z 0-9 _"),
                Some(name) if segments.contains(&Segment::Parameter(name.to_owned())) => {
                    return wrong("has two parameters of one name");
                }
                Some(name) => Segment::Parameter(name.to_owned()),
                None if segment.is_empty() => return wrong("has an empty segment, or ends with /"),
                None if matches!(segment, "." | "..") => return wrong("has a segment . or .., which no client sends"),
                None if segment.contains(['{', '}']) => {
                    return wrong(
                        "has a parameter beside other text: a parameter is a whole segment, as in /books/{id}",
                    );
                }
                None if segment.contains(['?', '#', '%', '\\']) || segment.chars().any(char::is_control) => {
                    return wrong("has a character that paths do not have; it is written without percent-encoding");
                }
                None => Segment::Name(segment.to_owned()),
            };
            segments.push(segment);
        }
        match segments.first() {
            Some(Segment::Name(first)) if TAKEN.contains(&first.as_str()) => {
                wrong(&format!("is below /{first}, which is taken"))
            }
            Some(Segment::Parameter(_)) => wrong("begins with a parameter: it would take every other path as well"),
            _ => Ok(Self(segments)),
        }
    }

    /// The names of its parameters.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|segment| match segment {
            Segment::Parameter(name) => Some(name.as_str()),
            Segment::Name(_) => None,
        })
    }

    /// Whether both take the same paths.
    pub fn is_same(&self, other: &Self) -> bool {
        self.names().eq(other.names())
    }

    /// By segment, names first: of two that take a path, the earlier is the more definite.
    pub fn before(&self, other: &Self) -> Ordering {
        let rank = |name: Option<&str>| name.is_none();
        self.names().map(rank).cmp(other.names().map(rank))
    }

    fn names(&self) -> impl Iterator<Item = Option<&str>> {
        self.0.iter().map(|segment| match segment {
            Segment::Name(name) => Some(name.as_str()),
            Segment::Parameter(_) => None,
        })
    }

    /// The parameters, where a path of these segments is one of its.
    pub fn matches(&self, segments: &[Cow<'_, str>]) -> Option<Parameters> {
        if self.0.len() != segments.len() {
            return None;
        }
        let mut parameters = Vec::new();
        for (segment, found) in self.0.iter().zip(segments) {
            match segment {
                Segment::Name(name) if name == found => {}
                Segment::Parameter(name) if !found.is_empty() => parameters.push((name.clone(), found.to_string())),
                _ => return None,
            }
        }
        Some(parameters)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|segment| match segment {
            Segment::Name(name) => write!(f, "/{name}"),
            Segment::Parameter(name) => write!(f, "/{{{name}}}"),
        })
    }
}

fn is_identifier(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && name.bytes().all(legal)
}

/// The segments of a request's path, decoded one by one, so that an encoded slash is part of its segment. `None` where they are not
/// UTF-8.
pub fn decode(path: &str) -> Option<Vec<Cow<'_, str>>> {
    let rest = path.strip_prefix('/')?;
    rest.split('/').map(|segment| percent_decode_str(segment).decode_utf8().ok()).collect()
}
