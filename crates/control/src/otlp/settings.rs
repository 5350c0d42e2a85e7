//! Where metrics are exported to, as the operator says it. What is wrong is told without what was given: headers hold
//! secrets, and an address may.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Uri, header};

/// Of metrics, below a collector's address (OTLP 1.x, "OTLP/HTTP Request").
const PATH: &str = "/v1/metrics";
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// More is a mistake.
const MAX_HEADERS: usize = 32;
/// What the exporter says itself.
const OURS: [HeaderName; 6] = [
    header::HOST,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
];

/// Where metrics go, and how often.
#[derive(Debug, Clone)]
pub struct OtlpSettings {
    pub(super) target: Uri,
    /// Marked as sensitive, so that they are not shown.
    pub(super) headers: HeaderMap,
    pub(super) interval: Duration,
}

impl OtlpSettings {
    /// From the operator's own settings, else from the standard's variables, which count as empty when they are. The standard's
    /// headers are for its own address alone, since they prove who asks. None: nothing is exported.
    ///
    /// # Errors
    /// Those of [`OtlpSettings::parse`].
    pub fn choose(
        endpoint: Option<String>,
        headers: Option<String>,
        interval: Option<Duration>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, String> {
        let some = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
        let own = some(endpoint);
        let standard = |name: &str| some(variable(name)).filter(|_| own.is_none());
        let Some(endpoint) = own.clone().or_else(|| standard("OTEL_EXPORTER_OTLP_ENDPOINT")) else { return Ok(None) };
        let headers = some(headers).or_else(|| standard("OTEL_EXPORTER_OTLP_HEADERS")).unwrap_or_default();
        Self::parse(&endpoint, &headers, interval).map(Some)
    }

    /// `endpoint` as `OTEL_EXPORTER_OTLP_ENDPOINT` has it: the address of a collector, below which metrics have a path of their
    /// own. `headers` as `OTEL_EXPORTER_OTLP_HEADERS`: `name=value,name=value`, values percent-encoded.
    ///
    /// # Errors
    /// What is wrong with them, for people, without their values.
    pub fn parse(endpoint: &str, headers: &str, interval: Option<Duration>) -> Result<Self, String> {
        let interval = interval.unwrap_or(DEFAULT_INTERVAL);
        if !INTERVALS.contains(&interval) {
            return Err("the interval must be from 1s to 1h".to_owned());
        }
        Ok(Self { target: target(endpoint)?, headers: parse_headers(headers)?, interval })
    }

    /// Whom a log may name.
    pub(super) fn collector(&self) -> &str {
        self.target.authority().map_or("", http::uri::Authority::as_str)
    }
}

fn target(endpoint: &str) -> Result<Uri, String> {
    let endpoint = endpoint.trim();
    let wrong = || "the endpoint must be http://HOST:PORT or https://HOST:PORT, with a path or without".to_owned();
    let given: Uri = endpoint.parse().map_err(|_| wrong())?;
    let plain =
        matches!(given.scheme_str(), Some("http" | "https")) && given.host().is_some_and(|host| !host.is_empty());
    // `Uri` leaves a fragment away without a word.
    if !plain || given.query().is_some() || endpoint.contains('#') {
        return Err(wrong());
    }
    if given.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("the endpoint must not hold a user or a password; say them as a header".to_owned());
    }
    format!("{}{PATH}", endpoint.trim_end_matches('/')).parse().map_err(|_| wrong())
}

fn parse_headers(text: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) =
            pair.split_once('=').ok_or("a header has no `=`: they are name=value, with commas between them")?;
        let name: HeaderName = name.trim().parse().map_err(|_| "a header's name has characters that none may have")?;
        if OURS.contains(&name) {
            return Err(format!("the header `{name}` is not for the operator to set"));
        }
        let mut value = HeaderValue::from_str(&decoded(value.trim()))
            .map_err(|_| format!("the value of the header `{name}` has characters that none may have"))?;
        value.set_sensitive(true);
        headers.append(name, value);
        if headers.len() > MAX_HEADERS {
            return Err(format!("there are more than {MAX_HEADERS} headers"));
        }
    }
    Ok(headers)
}

/// Without percent-encoding; a plus is a plus.
fn decoded(text: &str) -> String {
    let form = format!("x={}", text.replace('&', "%26").replace('+', "%2B"));
    form_urlencoded::parse(form.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(endpoint: &str, headers: &str) -> Result<OtlpSettings, String> {
        OtlpSettings::parse(endpoint, headers, None)
    }

    #[test]
    fn metrics_go_to_their_path_below_the_address() {
        for (endpoint, target) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/metrics"),
            ("https://otlp.example.com/", "https://otlp.example.com/v1/metrics"),
            (" https://otlp.example.com/otlp/ ", "https://otlp.example.com/otlp/v1/metrics"),
            ("http://[::1]:4318", "http://[::1]:4318/v1/metrics"),
        ] {
            assert_eq!(parse(endpoint, "").unwrap().target.to_string(), target);
        }
    }

    #[test]
    fn the_standards_variables_count_where_nothing_else_is_said() {
        let chosen = |own: [&str; 2], standard: [&str; 2]| {
            let variable = |name: &str| {
                let at =
                    ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS"].iter().position(|it| *it == name);
                Some(standard[at.expect("no other variable is asked for")].to_owned())
            };
            let chosen =
                OtlpSettings::choose(Some(own[0].to_owned()), Some(own[1].to_owned()), None, variable).unwrap()?;
            let keys = chosen.headers.values().map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>();
            Some((chosen.collector().to_owned(), keys.concat()))
        };
        let is = |collector: &str, key: &str| Some((collector.to_owned(), key.to_owned()));
        assert_eq!(chosen(["", ""], [" ", "key=theirs"]), None);
        assert_eq!(chosen(["", ""], ["http://theirs", "key=theirs"]), is("theirs", "theirs"));
        assert_eq!(chosen(["", "key=own"], ["http://theirs", "key=theirs"]), is("theirs", "own"));
        assert_eq!(chosen(["http://own", "key=own"], ["http://theirs", "key=theirs"]), is("own", "own"));
        assert_eq!(chosen(["http://own", ""], ["http://theirs", "key=theirs"]), is("own", ""), "no key goes elsewhere");
        assert!(OtlpSettings::choose(None, None, None, |_| None).unwrap().is_none());
    }

    #[test]
    fn an_address_of_another_kind_is_refused_and_not_repeated() {
        for endpoint in [
            "",
            "collector:4317",
            "grpc://collector:4317",
            "unix:///run/collector",
            "/v1/metrics",
            "http://",
            "https://otlp.example.com/?key=hidden",
            "https://otlp.example.com/#hidden",
            "https://user:hidden@otlp.example.com",
        ] {
            let error = parse(endpoint, "").expect_err(endpoint);
            assert!(error.starts_with("the endpoint") && !error.contains("hidden"), "{endpoint}: {error}");
        }
    }

    #[test]
    fn headers_are_read_as_the_standard_has_them() {
        let settings = parse("http://h", "api-key=a+b%20c%2Cd==, x-scope = one ,Authorization=Basic%20eA==,").unwrap();
        let header = |name: &str| settings.headers[name].to_str().unwrap();
        assert_eq!((header("api-key"), header("x-scope")), ("a+b c,d==", "one"));
        assert_eq!(header("authorization"), "Basic eA==");
    }

    #[test]
    fn no_error_and_no_debugging_output_has_a_headers_value() {
        for headers in ["hidden", "a b=hidden", "x=hidden%0Dx", "content-type=hidden", "host=hidden", "=hidden"] {
            let error = parse("http://h", headers).expect_err(headers);
            assert!(error.contains("header") && !error.contains("hidden"), "{headers}: {error}");
        }
        let many: Vec<_> = (0..40).map(|n| format!("x{n}=hidden")).collect();
        assert!(parse("http://h", &many.join(",")).is_err());
        let settings = parse("http://h", "api-key=hidden").unwrap();
        assert!(!format!("{settings:?}").contains("hidden"), "{settings:?}");
    }

    #[test]
    fn an_interval_is_from_a_second_to_an_hour() {
        let interval = |millis| OtlpSettings::parse("http://h", "", Some(Duration::from_millis(millis)));
        assert!(interval(999).is_err() && interval(3_600_001).is_err());
        assert_eq!(interval(1000).unwrap().interval, Duration::from_secs(1));
        assert_eq!(parse("http://h", "").unwrap().interval, Duration::from_secs(60));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(endpoint in ".{0,40}", headers in ".{0,60}|([a-z]{1,4}=[%a-f0-9]{0,9},){0,4}") {
            let _ = parse(&endpoint, &headers);
            let _ = parse("http://h", &headers);
        }
    }
}
