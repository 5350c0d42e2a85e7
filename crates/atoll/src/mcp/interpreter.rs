//! Runs code in a sandbox's code interpreter: port 49999 inside, asked by a program in the sandbox, so that it needs no
//! way in from outside.

use std::fmt::Write as _;

use atoll_client::model::SandboxId;
use atoll_client::{Client, Error, command};
use rmcp::model::ContentBlock;
use serde::Deserialize;
use serde_json::json;

/// What an agent is shown of a text at most; the middle of a longer one is left out.
pub const MAX_TEXT: usize = 100_000;
/// `curl` could not connect.
const NOBODY_LISTENS: i32 = 7;

/// A line of the interpreter's answer.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Stdout {
        text: String,
    },
    Stderr {
        text: String,
    },
    Result {
        text: Option<String>,
        markdown: Option<String>,
        json: Option<serde_json::Value>,
        svg: Option<String>,
        png: Option<String>,
        jpeg: Option<String>,
        chart: Option<serde_json::Value>,
    },
    Error {
        name: String,
        value: String,
        traceback: String,
    },
    #[serde(other)]
    Other,
}

/// What an execution came to.
pub struct Outcome {
    pub content: Vec<ContentBlock>,
    pub failed: bool,
}

/// Runs the code in the sandbox's default context of the language.
pub async fn run(
    client: &Client,
    id: &SandboxId,
    code: &str,
    language: &str,
    timeout_sec: u64,
) -> Result<Result<Outcome, String>, Error> {
    let path = format!("/tmp/.atoll-code-{}.json", hex::encode(unique()));
    let request = json!({ "code": code, "language": language }).to_string();
    client.write_file_bytes(id, &path, request.into_bytes()).await?;
    // The request comes from a file because it may be longer than a command line.
    let script = "curl -sS -N -H 'content-type: application/json' --data-binary \"@$0\" http://127.0.0.1:49999/execute; \
                  code=$?; rm -f \"$0\"; exit $code";
    let mut exec = command("/bin/sh", ["-c", script, path.as_str()]);
    exec.timeout_sec = Some(timeout_sec);
    let answer = client.exec(id, &exec).await?;
    if answer.exit_code == NOBODY_LISTENS {
        return Ok(Err("nothing listens on port 49999 of this sandbox: code runs in sandboxes of the template \
                       `code-interpreter`; use run_command in others"
            .to_owned()));
    }
    if answer.exit_code != 0 {
        return Ok(Err(format!("the interpreter's answer broke off: {}", answer.stderr.trim())));
    }
    Ok(outcome(&answer.stdout))
}

/// The answer as an agent reads it.
fn outcome(answer: &str) -> Result<Outcome, String> {
    let (mut text, mut images, mut failed, mut whole) = (String::new(), Vec::new(), false, false);
    for line in answer.lines() {
        if line.contains("\"end_of_execution\"") {
            whole = true;
        }
        let Ok(line) = serde_json::from_str::<Line>(line) else {
            // Anything but lines of JSON is the interpreter's refusal, a text.
            return Err(answer.trim().to_owned());
        };
        match line {
            Line::Stdout { text: said } => text.push_str(&said),
            Line::Stderr { text: said } => text.push_str(&said),
            Line::Result { text: plain, markdown, json, svg, png, jpeg, chart } => {
                ensure_line(&mut text);
                if let Some(shown) = markdown.or(plain) {
                    let _ = writeln!(text, "{shown}");
                } else if let Some(shown) = json {
                    let _ = writeln!(text, "{shown}");
                } else if let Some(shown) = svg {
                    let _ = writeln!(text, "{shown}");
                }
                if let Some(chart) = chart {
                    let _ = writeln!(text, "chart: {chart}");
                }
                images.extend(png.map(|data| ContentBlock::image(data, "image/png")));
                images.extend(jpeg.map(|data| ContentBlock::image(data, "image/jpeg")));
            }
            Line::Error { name, value, traceback } => {
                failed = true;
                ensure_line(&mut text);
                let _ = if traceback.is_empty() {
                    writeln!(text, "{name}: {value}")
                } else {
                    writeln!(text, "{traceback}")
                };
            }
            Line::Other => {}
        }
    }
    if !whole {
        ensure_line(&mut text);
        text.push_str("(the answer is not whole: it was longer than what is passed on)\n");
    }
    let mut content = vec![ContentBlock::text(shortened(&text))];
    content.extend(images);
    Ok(Outcome { content, failed })
}

fn ensure_line(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
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

fn unique() -> [u8; 8] {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish().to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn output_results_and_errors_are_read_in_their_order() {
        let answer = r#"{"type":"number_of_executions","execution_count":1}
{"type":"stdout","text":"a","timestamp":1}
{"type":"result","text":"<Figure>","png":"aGk=","is_main_result":false}
{"type":"error","name":"E","value":"v","traceback":"E: v"}
{"type":"end_of_execution"}"#;
        let outcome = outcome(answer).unwrap_or_else(|_| panic!());
        assert!(outcome.failed);
        assert_eq!(outcome.content.len(), 2);
        assert_eq!(outcome.content[0].as_text().unwrap().text, "a\n<Figure>\nE: v\n");
    }

    #[test]
    fn a_refusal_is_passed_on() {
        assert_eq!(outcome("there is no language 'x' here").err().unwrap(), "there is no language 'x' here");
    }

    proptest! {
        #[test]
        fn no_answer_breaks_it(answer in ".*", text in "\\PC{0,200}") {
            let _ = outcome(&answer);
            let long = text.repeat(1 + MAX_TEXT / text.len().max(1));
            prop_assert!(shortened(&long).len() < MAX_TEXT + 200);
        }
    }
}
