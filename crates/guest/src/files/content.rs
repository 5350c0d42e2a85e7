//! What a file is called and what it contains, in HTTP's words; and what a reader will accept.

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

/// The media type by the name's extension, else by the first bytes.
pub fn media_type(name: &str, head: &[u8]) -> String {
    match mime_guess::from_path(name).first() {
        Some(guess) if guess.type_() == mime_guess::mime::TEXT => format!("{guess}; charset=utf-8"),
        Some(guess) => guess.to_string(),
        None => sniff(head).to_owned(),
    }
}

fn sniff(head: &[u8]) -> &'static str {
    const SIGNATURES: [(&[u8], &str); 10] = [
        (b"%PDF-", "application/pdf"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"GIF8", "image/gif"),
        (b"\x1f\x8b", "application/x-gzip"),
        (b"PK\x03\x04", "application/zip"),
        (b"\x00asm", "application/wasm"),
        (b"<?xml", "text/xml; charset=utf-8"),
        (b"<!DOCTYPE html", "text/html; charset=utf-8"),
        (b"<html", "text/html; charset=utf-8"),
    ];
    const LOOKED_AT: usize = 512;
    let head = &head[..head.len().min(LOOKED_AT)];
    if let Some((_, media_type)) = SIGNATURES.iter().find(|(signature, _)| head.starts_with(signature)) {
        return media_type;
    }
    let binary = |byte: &u8| matches!(byte, 0x00..=0x08 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    if head.iter().any(binary) { "application/octet-stream" } else { "text/plain; charset=utf-8" }
}

/// `inline; filename=...`, quoted or encoded as the name needs it.
pub fn disposition(name: &str) -> String {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte);
    if !name.is_empty() && name.bytes().all(token) {
        format!("inline; filename={name}")
    } else if name.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        format!("inline; filename=\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        let encoded: String = name
            .bytes()
            .map(|byte| if token(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect();
        format!("inline; filename*=utf-8''{encoded}")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    /// The reader prefers gzip; `only` if it takes nothing else.
    Gzip {
        only: bool,
    },
}

/// What the reader accepts best; none if it accepts neither.
pub fn accepted_encoding(headers: &HeaderMap) -> Option<Encoding> {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for item in
        headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','))
    {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts
            .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
            .map_or(1.0, |quality| quality.parse::<f32>().unwrap_or(0.0));
        match name.as_str() {
            "gzip" | "x-gzip" => gzip = Some(quality),
            "identity" => identity = Some(quality),
            "*" => any = Some(quality),
            _ => {}
        }
    }
    let gzip = gzip.or(any).unwrap_or(0.0);
    // Not being mentioned leaves identity acceptable, though not preferred.
    let refused = identity.or(any) == Some(0.0);
    match (gzip > 0.0 && gzip >= identity.unwrap_or(0.0), refused) {
        (true, only) => Some(Encoding::Gzip { only }),
        (false, false) => Some(Encoding::Identity),
        (false, true) => None,
    }
}

/// What a Range header asks of a file of `length` bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    Bytes { first: u64, length: u64 },
    Unsatisfiable,
}

/// One range is understood; several, and what is no range, mean the whole file, as HTTP allows.
pub fn requested_part(range: &str, length: u64) -> Part {
    let Some(range) = range.trim().strip_prefix("bytes=").map(str::trim) else { return Part::Whole };
    let Some((first, last)) = range.split_once('-').filter(|_| !range.contains(',')) else { return Part::Whole };
    let part = match (first.trim(), last.trim()) {
        ("", suffix) => suffix.parse::<u64>().ok().map(|suffix| (length.saturating_sub(suffix), length, suffix > 0)),
        (first, "") => first.parse().ok().map(|first| (first, length, true)),
        (first, last) => match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) if last >= first => Some((first, length.min(last.saturating_add(1)), true)),
            _ => None,
        },
    };
    match part {
        None => Part::Whole,
        Some((first, end, true)) if first < end => Part::Bytes { first, length: end - first },
        Some(_) => Part::Unsatisfiable,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accepted(value: &str) -> Option<Encoding> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, value.parse().expect("a value"));
        accepted_encoding(&headers)
    }

    #[test]
    fn the_best_accepted_encoding_is_chosen() {
        assert_eq!(accepted_encoding(&HeaderMap::new()), Some(Encoding::Identity));
        assert_eq!(accepted("gzip, deflate"), Some(Encoding::Gzip { only: false }));
        assert_eq!(accepted("gzip;q=0.5, identity"), Some(Encoding::Identity));
        assert_eq!(accepted("deflate"), Some(Encoding::Identity));
        assert_eq!(accepted("gzip, identity;q=0"), Some(Encoding::Gzip { only: true }));
        assert_eq!(accepted("gzip;q=0, identity;q=0"), None);
        assert_eq!(accepted("br, *;q=0"), None);
        assert_eq!(accepted("*"), Some(Encoding::Gzip { only: false }));
    }

    #[test]
    fn ranges_are_understood() {
        for (range, expected) in [
            ("bytes=0-4", Part::Bytes { first: 0, length: 5 }),
            ("bytes=5-", Part::Bytes { first: 5, length: 5 }),
            ("bytes=-3", Part::Bytes { first: 7, length: 3 }),
            ("bytes=-30", Part::Bytes { first: 0, length: 10 }),
            ("bytes=8-100", Part::Bytes { first: 8, length: 2 }),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=4-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("lines=1-2", Part::Whole),
        ] {
            assert_eq!(requested_part(range, 10), expected, "{range}");
        }
    }

    proptest! {
        #[test]
        fn a_part_is_never_outside_the_file(range in "bytes=[0-9]{0,20}-[0-9]{0,20}", length in 0_u64..1000) {
            if let Part::Bytes { first, length: part } = requested_part(&range, length) {
                prop_assert!(part > 0 && first + part <= length);
            }
        }
    }

    #[test]
    fn names_are_quoted_as_needed() {
        assert_eq!(disposition("a.txt"), "inline; filename=a.txt");
        assert_eq!(disposition("a \"b\".txt"), "inline; filename=\"a \\\"b\\\".txt\"");
        assert_eq!(disposition("ž"), "inline; filename*=utf-8''%C5%BE");
        assert_eq!(disposition("a\nb"), "inline; filename*=utf-8''a%0Ab");
    }

    #[test]
    fn media_types_come_from_names_and_contents() {
        assert_eq!(media_type("a.html", b""), "text/html; charset=utf-8");
        assert_eq!(media_type("a.json", b""), "application/json");
        assert_eq!(media_type("a", b"hello"), "text/plain; charset=utf-8");
        assert_eq!(media_type("a", b"\x00\x01"), "application/octet-stream");
        assert_eq!(media_type("a", b"\x89PNG\r\n\x1a\n..."), "image/png");
    }
}
