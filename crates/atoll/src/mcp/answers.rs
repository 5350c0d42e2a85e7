//! What an agent is told: bounded texts, and of what went wrong also what to do next. A model reads it, so what a tool
//! can't do is an answer like any other, not an error of the protocol.

use atoll_client::Error;
use atoll_client::model::ErrorCode;
use atoll_client::model::api::sandboxes::Encoding;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rmcp::ErrorData;
use rmcp::model::{CallToolResult, ContentBlock};

/// What an agent is shown of a text at most; of a longer one a part is left out.
pub const MAX_TEXT: usize = 32 << 10;

/// What a tool ends with.
pub type Answer = Result<CallToolResult, ErrorData>;

pub fn said(text: impl Into<String>) -> Answer {
    Ok(CallToolResult::success(vec![ContentBlock::text(text)]))
}

pub fn failed(problem: impl Into<String>) -> Answer {
    Ok(CallToolResult::error(vec![ContentBlock::text(problem)]))
}

/// What went wrong with a request to Atoll, and what to do next.
pub fn refused(error: &Error) -> String {
    match advice(error) {
        Some(advice) => format!("{error}\nNext: {advice}"),
        None => error.to_string(),
    }
}

fn advice(error: &Error) -> Option<String> {
    let answer = match error {
        Error::Api(answer) => answer,
        Error::Unreachable { .. } => {
            return Some("tell the user that Atoll doesn't answer at this address; is `atoll up` running?".to_owned());
        }
        Error::Broken { .. } | Error::TimedOut { .. } => {
            return Some("it may have happened; look before you do it again".to_owned());
        }
        _ => return None,
    };
    let about_a_file = answer.field.as_deref().is_some_and(|field| field.contains("path"));
    Some(match answer.known_code()? {
        ErrorCode::NotFound if about_a_file => "list_files shows what there is".to_owned(),
        ErrorCode::NotFound | ErrorCode::InvalidRequest if answer.field.as_deref() == Some("template") => {
            "leave template out, or take `code-interpreter` or `base`".to_owned()
        }
        ErrorCode::NotFound => {
            "list_sandboxes shows the sandboxes there are; create_sandbox makes a new one".to_owned()
        }
        ErrorCode::InvalidState if answer.details.get("status").is_some_and(|status| status == "paused") => {
            "ask the user to resume it (`atoll sandbox resume ID`), or use another one".to_owned()
        }
        ErrorCode::InvalidState => "make a new one with create_sandbox".to_owned(),
        ErrorCode::Unauthorized => {
            "tell the user that the API key isn't good (any more); `atoll key create NAME` makes one".to_owned()
        }
        ErrorCode::Forbidden => {
            "tell the user that the API key may not do this; its scope must be `sandboxes` or `all`".to_owned()
        }
        ErrorCode::QuotaExceeded => "destroy_sandbox those that nobody needs, or ask for less memory".to_owned(),
        ErrorCode::NoHostsAvailable => "ask for less memory and fewer vcpus, or try again in a moment".to_owned(),
        ErrorCode::RateLimited | ErrorCode::Overloaded | ErrorCode::NotReady | ErrorCode::HostUnavailable => {
            match answer.retry_after {
                Some(seconds) => format!("try again in {seconds} s"),
                None => "try again in a moment".to_owned(),
            }
        }
        ErrorCode::TooLarge => "send output to a file in the sandbox, and read parts of it".to_owned(),
        ErrorCode::InsufficientStorage => "delete files in the sandbox that nobody needs".to_owned(),
        ErrorCode::Timeout => "give it a larger timeout_sec, or run it in the background".to_owned(),
        _ => return None,
    })
}

/// What a program that was ended for taking too long had written: stdout and stderr.
pub fn so_far(error: &Error) -> Option<(String, String)> {
    let Error::Api(answer) = error else { return None };
    if answer.known_code() != Some(ErrorCode::Timeout) {
        return None;
    }
    let encoding = answer.details.get("encoding").and_then(|it| serde_json::from_value(it.clone()).ok())?;
    let stream = |name| Some(text_of(answer.details.get(name)?.as_str()?, encoding));
    Some((stream("stdout")?, stream("stderr")?))
}

/// Output as text, whatever it is: what is no UTF-8 in it is replaced.
pub fn text_of(stream: &str, encoding: Encoding) -> String {
    match encoding {
        Encoding::Utf8 => stream.to_owned(),
        Encoding::Base64 => match STANDARD.decode(stream) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) => stream.to_owned(),
        },
    }
}

/// A program's output under a heading; nothing of an empty one.
pub fn section(name: &str, text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    format!("--- {name} ---\n{}\n", shortened(text.trim_end_matches('\n')))
}

/// The beginning and the end of a text that is too long.
pub fn shortened(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    let head = text.floor_char_boundary(MAX_TEXT / 2);
    let tail = text.ceil_char_boundary(text.len() - MAX_TEXT / 2);
    format!("{}\n… {} bytes are left out here …\n{}", &text[..head], tail - head, &text[tail..])
}

/// A part of a text that was asked for by lines: what fits, and a note when that isn't all.
pub fn page(text: &str, first_line: usize, lines: usize) -> (&str, Option<String>) {
    let total = text.lines().count();
    let skipped = first_line.saturating_sub(1);
    let (mut begin, mut end, mut shown) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if number < skipped {
            begin += line.len();
            end = begin;
            continue;
        }
        if shown == lines || end - begin + line.len() > MAX_TEXT {
            break;
        }
        end += line.len();
        shown += 1;
    }
    if shown == 0 && lines > 0 && skipped < total {
        // Not even one line fits.
        let end = text.floor_char_boundary(begin + MAX_TEXT);
        let note = format!(
            "(the beginning of line {first_line}, which is longer than an answer; take run_command for the rest)"
        );
        return (&text[begin..end], Some(note));
    }
    let note = if skipped >= total && total > 0 {
        Some(format!("(the file has {total} lines)"))
    } else if skipped == 0 && shown == total {
        None
    } else if skipped + shown == total {
        Some(format!("(lines {} to {total}, the last one)", skipped + 1))
    } else {
        Some(format!(
            "(lines {} to {} of {total}; go on with first_line {})",
            skipped + 1,
            skipped + shown,
            skipped + shown + 1
        ))
    };
    (&text[begin..end], note)
}

/// As many of the lines as fit, and how many don't.
pub fn listed(lines: impl Iterator<Item = String>, otherwise: &str) -> String {
    let (mut text, mut left_out) = (String::new(), 0_usize);
    for line in lines {
        if left_out > 0 || text.len() + line.len() > MAX_TEXT {
            left_out += 1;
        } else {
            text.push_str(&line);
        }
    }
    if left_out > 0 {
        text.push_str(&format!("… and {left_out} more; {otherwise}\n"));
    }
    if text.is_empty() { "(none)\n".to_owned() } else { text }
}

pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of a content that came as base64.
pub fn from_base64(text: &str) -> Result<Vec<u8>, String> {
    let packed: String = text.split_ascii_whitespace().collect();
    STANDARD.decode(packed).map_err(|error| format!("content is not base64 ({error}); leave base64 out for a text"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_page_says_where_to_go_on() {
        let text = "a\nb\nc\nd\n";
        assert_eq!(page(text, 1, usize::MAX), (text, None));
        assert_eq!(page(text, 2, 2), ("b\nc\n", Some("(lines 2 to 3 of 4; go on with first_line 4)".to_owned())));
        assert_eq!(page(text, 4, 9), ("d\n", Some("(lines 4 to 4, the last one)".to_owned())));
        assert_eq!(page(text, 9, 9), ("", Some("(the file has 4 lines)".to_owned())));
        assert_eq!(page("", 1, 9), ("", None));
    }

    #[test]
    fn a_line_that_is_too_long_is_cut() {
        let long = "x".repeat(MAX_TEXT * 2);
        let (shown, note) = page(&long, 1, usize::MAX);
        assert_eq!(shown.len(), MAX_TEXT);
        assert!(note.unwrap().contains("line 1"));
    }

    #[test]
    fn a_list_says_how_much_is_left_out() {
        let lines = || (0..9000).map(|number| format!("{number}\n"));
        let text = listed(lines(), "look deeper");
        assert!(text.len() < MAX_TEXT + 100 && text.ends_with("more; look deeper\n"), "{}", text.len());
        assert_eq!(listed(std::iter::empty(), ""), "(none)\n");
    }

    proptest! {
        #[test]
        fn whatever_it_is_an_answer_is_bounded(text in "\\PC{0,200}", lines in prop::collection::vec("\\PC{0,40}\n", 0..60),
            first in 0_usize..80, count in 0_usize..80) {
            let long = text.repeat(1 + MAX_TEXT / text.len().max(1));
            prop_assert!(shortened(&long).len() < MAX_TEXT + 200);
            prop_assert!(page(&long, first, count).0.len() <= MAX_TEXT);
            let whole = lines.concat();
            // The pages that an agent is sent to, one after the other, are the whole text.
            let (mut read, mut at) = (String::new(), 1);
            loop {
                let (shown, note) = page(&whole, at, count.max(1));
                read.push_str(shown);
                let Some(next) = note.and_then(|it| it.split("first_line ").nth(1)?.trim_end_matches(')').parse().ok())
                else { break };
                at = next;
            }
            prop_assert_eq!(read, whole);
        }
    }
}
