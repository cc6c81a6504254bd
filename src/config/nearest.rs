//! The valid name that somebody who wrote an unknown one probably meant.

use super::{environment, text, tree::Key};

/// Longer names are compared by their beginning only: comparing takes the square of the length.
const COMPARED: usize = 100;

/// How like a key of the same name in another section is: less than one with a slip of the pen in the same section.
const ELSEWHERE: f64 = 0.7;

/// The key most like `path`, as TOML.
pub(super) fn key(path: &[String], keys: &[Key]) -> String {
    best(path, keys.iter()).map_or_else(String::new, |key| text::dotted(&key.path))
}

/// The variable whose key is most like `path`.
pub(super) fn variable(path: &[String], keys: &[Key]) -> String {
    if let Some(free) = keys.iter().find(|key| key.free && path.len() > key.path.len() && path.starts_with(&key.path)) {
        let name: Vec<_> = path[free.path.len()..].iter().filter(|part| !part.is_empty()).cloned().collect();
        let name = if name.is_empty() { "security_protocol".into() } else { name.join("_") };
        return environment::variable(&[&free.path[..], &[name]].concat());
    }
    best(path, keys.iter().filter(|key| !key.table)).map_or_else(String::new, |key| environment::variable(&key.path))
}

fn best<'a>(path: &[String], keys: impl Iterator<Item = &'a Key>) -> Option<&'a Key> {
    let mut best = None;
    let mut most = -1.0;
    for key in keys {
        let likeness = likeness(path, &key.path);
        if likeness > most {
            (best, most) = (Some(key), likeness);
        }
    }
    best
}

/// From 0, nothing in common, to 1, the same.
fn likeness(unknown: &[String], known: &[String]) -> f64 {
    let (Some((name, section)), Some((known_name, known_section))) = (unknown.split_last(), known.split_last()) else {
        return 0.0;
    };
    let mut likeness = compare(&unknown.join("."), &known.join("."));
    if section == known_section {
        likeness = likeness.max(compare(name, known_name));
    }
    if name == known_name {
        likeness = likeness.max(ELSEWHERE);
    }
    likeness
}

fn compare(a: &str, b: &str) -> f64 {
    let short = |text: &str| text.chars().take(COMPARED).collect::<String>().to_lowercase();
    strsim::normalized_damerau_levenshtein(&short(a), &short(b))
}
