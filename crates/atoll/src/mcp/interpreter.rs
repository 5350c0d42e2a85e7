//! Runs code in a sandbox's code interpreter: port 49999 inside, asked by a program in the sandbox, so that it needs no
//! way in from outside.

use std::fmt::Write as _;

use atoll_client::model::SandboxId;
use atoll_client::{Client, Error, command};
use rmcp::model::{CallToolResult, ContentBlock};
use serde::Deserialize;
use serde_json::json;

use super::answers::{Answer, MAX_TEXT, failed, refused, shortened, so_far, text_of};
use super::exec;

/// What is read of an answer; with more than that the execution is ended. Below what exec passes on.
const MAX_ANSWER: usize = 6 << 20;
/// Pictures of one execution: how many an agent is shown, and how much in all.
const MAX_IMAGES: usize = 8;
const MAX_IMAGE_BYTES: usize = 4 << 20;
/// `curl` could not connect.
const NOBODY_LISTENS: i32 = 7;
/// `curl` had nobody to write to any more: the answer was longer than what is read of it.
const NOBODY_READS: i32 = 23;

/// Asks the interpreter. The request comes from a file because it may be longer than a command line; the file is gone
/// before the code runs.
const SCRIPT: &str = r#"exec 3<"$0"; rm -f "$0"
curl -sS -N -H 'content-type: application/json' --data-binary @- http://127.0.0.1:49999/execute <&3 | stdbuf -o0 head -c "$1"
exit "${PIPESTATUS[0]}""#;

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
    Result(Box<Shown>),
    Error {
        name: String,
        value: String,
        traceback: String,
    },
    EndOfExecution,
    #[serde(other)]
    Other,
}

/// A result in the forms that it has.
#[derive(Deserialize)]
struct Shown {
    text: Option<String>,
    markdown: Option<String>,
    json: Option<serde_json::Value>,
    latex: Option<String>,
    html: Option<String>,
    svg: Option<String>,
    png: Option<String>,
    jpeg: Option<String>,
    chart: Option<serde_json::Value>,
}

/// Runs the code in the sandbox's default context of the language.
pub async fn run(client: &Client, id: &SandboxId, code: &str, language: &str, timeout_sec: u64) -> Answer {
    let path = format!("/tmp/.atoll-code-{:016x}.json", rand::random::<u64>());
    let request = json!({ "code": code, "language": language }).to_string();
    if let Err(error) = client.write_file_bytes(id, &path, request.into_bytes()).await {
        return failed(refused(&error));
    }
    let limit = MAX_ANSWER.to_string();
    let mut request = command("/bin/bash", ["-c", SCRIPT, path.as_str(), limit.as_str()]);
    request.timeout_sec = Some(timeout_sec);
    let answer = match exec::run(client, id, request).await {
        Ok(answer) => answer,
        Err(error) => return ended(&error, timeout_sec),
    };
    let said = text_of(&answer.stdout, answer.encoding);
    match answer.exit_code {
        0 | NOBODY_READS => match outcome(&said) {
            Ok(outcome) => outcome.told(),
            Err(refusal) => failed(refusal),
        },
        NOBODY_LISTENS => failed(
            "nothing listens on port 49999 of this sandbox\nNext: run_code works in sandboxes of the template \
             `code-interpreter`; in others take run_command",
        ),
        code => {
            let why = text_of(&answer.stderr, answer.encoding);
            failed(format!("the interpreter's answer broke off (curl: {code}) {}", why.trim()))
        }
    }
}

/// An execution without an end: what it had shown when its time was over.
fn ended(error: &Error, timeout_sec: u64) -> Answer {
    let Some(mut outcome) = so_far(error).and_then(|(said, _)| outcome(&said).ok()) else {
        return failed(refused(error));
    };
    ensure_line(&mut outcome.text);
    let _ = writeln!(outcome.text, "(ended after {timeout_sec} s; give it a larger timeout_sec, or less to do)");
    outcome.failed = true;
    outcome.told()
}

/// What an execution came to.
struct Outcome {
    text: String,
    images: Vec<(String, &'static str)>,
    failed: bool,
    whole: bool,
}

impl Outcome {
    fn told(mut self) -> Answer {
        let (mut content, mut bytes) = (Vec::new(), 0);
        let shown = self.images.len();
        for (data, kind) in self.images {
            bytes += data.len();
            if content.len() == MAX_IMAGES || bytes > MAX_IMAGE_BYTES {
                break;
            }
            content.push(ContentBlock::image(data, kind));
        }
        let mut notes = String::new();
        if shown > content.len() {
            let _ = writeln!(notes, "({} more pictures are left out)", shown - content.len());
        }
        if !self.whole && !self.failed {
            notes.push_str("(the output was longer than what is read of it; the execution was ended)\n");
            self.failed = true;
        }
        let mut text = shortened(&self.text);
        ensure_line(&mut text);
        content.insert(0, ContentBlock::text(text + &notes));
        Ok(if self.failed { CallToolResult::error(content) } else { CallToolResult::success(content) })
    }
}

/// Reads the answer; what is none is the interpreter's refusal, a text.
fn outcome(answer: &str) -> Result<Outcome, String> {
    let mut outcome = Outcome { text: String::new(), images: Vec::new(), failed: false, whole: false };
    for line in answer.split_inclusive('\n') {
        let parsed = match serde_json::from_str::<Line>(line) {
            Ok(parsed) => parsed,
            // The last line of an answer that was cut; a kernel that is quick says all it has in one.
            Err(_) if line.starts_with('{') && !line.ends_with('\n') => match cut_output(line) {
                Some(output) => output,
                None => break,
            },
            Err(_) => return Err(refusal(answer)),
        };
        let text = &mut outcome.text;
        match parsed {
            Line::Stdout { text: said } | Line::Stderr { text: said } => text.push_str(&said),
            Line::Result(shown) => {
                let (main, images) = shown.told();
                ensure_line(text);
                text.push_str(&main);
                outcome.images.extend(images);
            }
            Line::Error { name, value, traceback } => {
                outcome.failed = true;
                ensure_line(text);
                let _ = if traceback.is_empty() {
                    writeln!(text, "{name}: {value}")
                } else {
                    writeln!(text, "{}", traceback.trim_end())
                };
            }
            Line::EndOfExecution => outcome.whole = true,
            Line::Other => {}
        }
    }
    Ok(outcome)
}

/// A line of output that was cut within its text, which comes last, up to the last whole character.
fn cut_output(line: &str) -> Option<Line> {
    /// Of a character that takes two escapes (`\ud83d\ude00`), so much may be there without its end.
    const LONGEST: usize = 11;
    let ends = (line.len().saturating_sub(LONGEST)..=line.len()).rev().filter(|end| line.is_char_boundary(*end));
    let read = |end: usize| serde_json::from_str::<Line>(&format!("{}\"}}", &line[..end])).ok();
    ends.filter_map(read).find(|line| matches!(line, Line::Stdout { .. } | Line::Stderr { .. }))
}

fn refusal(answer: &str) -> String {
    let end = answer.floor_char_boundary(answer.len().min(MAX_TEXT));
    answer[..end].trim().to_owned()
}

impl Shown {
    /// The form that says most to a model, and pictures.
    fn told(self) -> (String, Vec<(String, &'static str)>) {
        let json = self.json.map(|value| value.to_string());
        let main = self.markdown.or(self.text).or(json).or(self.latex).or(self.html).or(self.svg);
        let mut text = main.map(|main| main + "\n").unwrap_or_default();
        if let Some(chart) = self.chart {
            let _ = writeln!(text, "chart: {chart}");
        }
        let image =
            |data: Option<String>, kind| data.map(|data| (data.split_ascii_whitespace().collect::<String>(), kind));
        (text, image(self.png, "image/png").into_iter().chain(image(self.jpeg, "image/jpeg")).collect())
    }
}

fn ensure_line(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn output_results_and_errors_are_read_in_their_order() {
        let answer = r#"{"type":"number_of_executions","execution_count":1}
{"type":"stdout","text":"a","timestamp":1}
{"type":"result","text":"<Figure>","png":"aGk=\n","is_main_result":false}
{"type":"error","name":"E","value":"v","traceback":"E: v"}
{"type":"end_of_execution"}
"#;
        let told = outcome(answer).unwrap_or_else(|refusal| panic!("{refusal}")).told().unwrap();
        assert_eq!(told.is_error, Some(true));
        assert_eq!(told.content[0].as_text().unwrap().text, "a\n<Figure>\nE: v\n");
        assert_eq!(told.content[1].as_image().unwrap().data, "aGk=");
        assert_eq!(told.content.len(), 2);
    }

    #[test]
    fn an_answer_that_was_cut_is_shown_as_far_as_it_goes() {
        let answer = "{\"type\":\"stdout\",\"text\":\"a\"}\n{\"type\":\"stdout\",\"text\":\"bb";
        let shown = |answer: &str| {
            let told = outcome(answer).unwrap_or_else(|refusal| panic!("{refusal}")).told().unwrap();
            assert_eq!(told.is_error, Some(true));
            told.content[0].as_text().unwrap().text.clone()
        };
        assert!(shown(answer).starts_with("abb\n(the output was longer"));
        let whole = r#"{"type":"stderr","text":"é\n\ud83d\ude00"}"#;
        for (end, _) in whole.char_indices().skip(24) {
            let text = shown(&whole[..end]);
            let said = text.split_once("(the output").unwrap().0.trim_end();
            assert!("é\n\u{1f600}".starts_with(said), "{end}: {text}");
        }
        assert!(shown(r#"{"type":"stderr","text":"é\n\ud83d\ude00"#).starts_with("é\n\u{1f600}\n(the"));
        // Of anything else a piece is nothing.
        assert!(shown(r#"{"type":"result","png":"aGk"#).starts_with("(the output was longer"));
    }

    #[test]
    fn pictures_are_bounded() {
        let line = "{\"type\":\"result\",\"png\":\"aGk=\"}\n".repeat(MAX_IMAGES + 3);
        let told =
            outcome(&(line + "{\"type\":\"end_of_execution\"}\n")).unwrap_or_else(|it| panic!("{it}")).told().unwrap();
        assert_eq!(told.content.len(), 1 + MAX_IMAGES);
        assert_eq!(told.content[0].as_text().unwrap().text, "(3 more pictures are left out)\n");
    }

    #[test]
    fn a_refusal_is_passed_on() {
        assert_eq!(outcome("there is no language 'x' here").err().unwrap(), "there is no language 'x' here");
    }

    proptest! {
        #[test]
        fn no_answer_breaks_it(answer in ".*", lines in prop::collection::vec("\\{\"type\":\"[a-z_]{0,10}\",?.{0,20}\\}\n?", 0..5)) {
            let _ = outcome(&answer).map(Outcome::told);
            let _ = outcome(&lines.concat()).map(Outcome::told);
        }
    }
}
