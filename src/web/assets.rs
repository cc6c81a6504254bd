//! The page, its parts, and the description of what is answered here; all of it compiled in.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY},
    },
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use super::{App, Problem};

/// The files of the folder `page` but for the page itself, and the description: path, kind, content.
pub const PARTS: &[(&str, &str, &str)] = &[
    ("/app.js", SCRIPT, include_str!("page/app.js")),
    ("/common.js", SCRIPT, include_str!("page/common.js")),
    ("/dead.js", SCRIPT, include_str!("page/dead.js")),
    ("/flow.js", SCRIPT, include_str!("page/flow.js")),
    ("/journeys.js", SCRIPT, include_str!("page/journeys.js")),
    ("/layout.js", SCRIPT, include_str!("page/layout.js")),
    ("/map.js", SCRIPT, include_str!("page/map.js")),
    ("/overview.js", SCRIPT, include_str!("page/overview.js")),
    ("/stop.js", SCRIPT, include_str!("page/stop.js")),
    ("/theme.js", SCRIPT, include_str!("page/theme.js")),
    ("/style.css", "text/css; charset=utf-8", include_str!("page/style.css")),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
    ("/openapi.json", "application/json", include_str!("../../docs/openapi.json")),
];

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The page; for a program that would rather have JSON, how many messages each topic's stop has read.
pub async fn page(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, Problem> {
    let mut response = match prefers_json(&headers) {
        true => app.counts.answer(&app.traffic).await?.into_response(),
        false => asset(&headers, "text/html; charset=utf-8", include_str!("page/index.html")),
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// A file that a browser may keep, and has to ask about each time: another version of the program has other ones.
pub fn asset(headers: &HeaderMap, kind: &'static str, body: &'static str) -> Response {
    let digest = Sha256::digest(body);
    let tag: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("\"{tag}\"");
    let kept = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut kept = kept.flat_map(|value| value.split(',')).map(|value| value.trim().trim_start_matches("W/"));
    let same = kept.any(|value| value == tag || value == "*");
    let mut response = match same {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => ([(CONTENT_TYPE, kind)], body).into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.extend(HeaderValue::from_str(&tag).map(|tag| (ETAG, tag)));
    response
}

/// Whether JSON is wanted more than HTML.
fn prefers_json(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let accepted = values.collect::<Vec<_>>().join(",");
    quality(&accepted, "application", "json") > quality(&accepted, "text", "html")
}

/// How much a kind of content is wanted, 0 to 1, by the most specific of the ranges that it is in.
fn quality(accepted: &str, kind: &str, subkind: &str) -> f32 {
    let (mut quality, mut specific) = (0.0, 0);
    for range in accepted.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let specificity = match parts.next().unwrap_or_default().to_ascii_lowercase().split_once('/') {
            Some((a, b)) if a == kind && b == subkind => 3,
            Some((a, "*")) if a == kind => 2,
            Some(("*", "*")) => 1,
            _ => continue,
        };
        let given = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse);
        if specificity > specific {
            (quality, specific) = (given.unwrap_or(0.0), specificity);
        }
    }
    quality
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_for_those_who_want_it_more() {
        for (accept, expected) in [
            ("application/json", true),
            ("application/json;q=0.9, text/html;q=0.8", true),
            ("APPLICATION/JSON, */*;q=0.1", true),
            ("application/*", true),
            ("", false),
            ("*/*", false),
            ("text/html, application/json", false),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", false),
            ("application/json;q=0", false),
            ("application/json;q=x", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(prefers_json(&headers), expected, "{accept}");
        }
        assert!(!prefers_json(&HeaderMap::new()));
    }
}
