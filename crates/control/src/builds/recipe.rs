//! What a template is built from: a base, and steps. Written as a structure, or as a text in the manner of a Dockerfile.
//!
//! The text knows `FROM`, `RUN`, `COPY` (`--chown`, `--chmod`), `ENV`, `WORKDIR`, `USER`, `CMD`/`ENTRYPOINT` (the start
//! command) and `READY` (asked until it succeeds). Lines end in a backslash to go on; `#` begins a comment line. `FROM`
//! is a template's name, or an image's reference when it has a slash, a colon or a dot.

use serde::{Deserialize, Serialize};

/// Longest recipe.
pub const MAX_TEXT: usize = 256 << 10;
pub const MAX_STEPS: usize = 256;
const MAX_COMMAND: usize = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// A template or snapshot of the team's or the platform's, maybe with a tag.
    Template(String),
    /// An OCI image, by reference.
    Image(String),
    /// What the team has pushed to this server.
    Pushed { repository: String, version: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Step {
    /// For `/bin/bash -l -c`, or `/bin/sh` where there is no bash; as the current user when none is named.
    Run {
        cmd: String,
        user: Option<String>,
    },
    /// From the uploaded files of this hash.
    Copy {
        source: String,
        destination: String,
        owner: Option<String>,
        mode: Option<String>,
        files: String,
    },
    Env {
        variables: Vec<(String, String)>,
    },
    Workdir {
        path: String,
    },
    /// Made when the image lacks it; `sudo` without a password if wanted.
    User {
        name: String,
        sudo: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    pub from: From,
    pub steps: Vec<Step>,
    /// Run at each start of a sandbox.
    pub start_cmd: Option<String>,
    /// Asked after the start command until it succeeds.
    pub ready_cmd: Option<String>,
    /// `container`, `vm` or `auto`: what its sandboxes run in. As what it is built from when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Sandboxes go on with the memory of a machine that is started at the end of the build.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_memory: bool,
    /// Build every step anew.
    #[serde(default)]
    pub force: bool,
    /// Build this step (counted from 0) and all after it anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh_from: Option<usize>,
    /// Steps run as the base's user instead of root; an image gets `user`, with a home and `sudo`, before the first one.
    /// So E2B's SDKs expect it.
    #[serde(default)]
    pub as_user: bool,
}

impl Recipe {
    /// No steps, and nothing to run.
    #[must_use]
    pub const fn new(from: From) -> Self {
        Self {
            from,
            steps: Vec::new(),
            start_cmd: None,
            ready_cmd: None,
            driver: None,
            keep_memory: false,
            force: false,
            fresh_from: None,
            as_user: false,
        }
    }

    /// What comes before the first step.
    #[must_use]
    pub fn prelude(&self) -> Vec<Step> {
        if !self.as_user || matches!(self.from, From::Template(_)) {
            return Vec::new();
        }
        vec![Step::User { name: "user".to_owned(), sudo: true }, Step::Workdir { path: "/home/user".to_owned() }]
    }
}

/// A recipe that can't be built: where, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct RecipeError {
    pub line: usize,
    pub problem: String,
}

fn wrong<T>(line: usize, problem: impl Into<String>) -> Result<T, RecipeError> {
    Err(RecipeError { line, problem: problem.into() })
}

/// Reads a text. `files` is the hash of the uploaded files that `COPY` takes from.
///
/// # Errors
/// [`RecipeError`] names the line.
pub fn parse(text: &str, files: Option<&str>) -> Result<Recipe, RecipeError> {
    if text.len() > MAX_TEXT {
        return wrong(1, format!("the recipe has more than {MAX_TEXT} bytes"));
    }
    let mut from = None;
    let mut steps = Vec::new();
    let (mut start_cmd, mut ready_cmd) = (None, None);
    for (line, text) in lines(text) {
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((&text, ""));
        let rest = rest.trim();
        if rest.is_empty() {
            return wrong(line, format!("{word} needs something after it"));
        }
        let word = word.to_ascii_uppercase();
        if from.is_none() && word != "FROM" {
            return wrong(line, "a recipe begins with FROM");
        }
        match word.as_str() {
            "FROM" if from.is_some() => return wrong(line, "there is one FROM: stages are not supported"),
            "FROM" => from = Some(base(line, rest)?),
            "RUN" => steps.push(Step::Run { cmd: command(line, rest)?, user: None }),
            "COPY" | "ADD" => steps.extend(copies(line, rest, files)?),
            "ENV" => steps.push(Step::Env { variables: variables(line, rest)? }),
            "WORKDIR" => steps.push(Step::Workdir { path: unquoted(rest) }),
            "USER" => steps.push(Step::User { name: unquoted(rest), sudo: false }),
            "CMD" | "ENTRYPOINT" => start_cmd = Some(command(line, rest)?),
            "READY" => ready_cmd = Some(command(line, rest)?),
            other => {
                return wrong(
                    line,
                    format!(
                        "`{}` is not known: FROM, RUN, COPY, ENV, WORKDIR, USER, CMD, READY are",
                        other.chars().take(40).collect::<String>()
                    ),
                );
            }
        }
        if steps.len() > MAX_STEPS {
            return wrong(line, format!("there are more than {MAX_STEPS} steps"));
        }
    }
    let Some(from) = from else { return wrong(1, "a recipe begins with FROM") };
    let recipe = Recipe { steps, start_cmd, ready_cmd, ..Recipe::new(from) };
    recipe.check().map_err(|problem| RecipeError { line: 1, problem })?;
    Ok(recipe)
}

/// Logical lines with the number of their first one.
fn lines(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (number, raw) in text.lines().enumerate() {
        let line = raw.trim_end();
        if line.trim_start().starts_with('#') || (line.trim().is_empty() && !goes_on) {
            continue;
        }
        let (part, more) = match line.strip_suffix('\\') {
            Some(part) => (part, true),
            None => (line, false),
        };
        match found.last_mut() {
            Some((_, whole)) if goes_on => {
                whole.push(' ');
                whole.push_str(part.trim());
            }
            _ => found.push((number + 1, part.trim().to_owned())),
        }
        goes_on = more;
    }
    found.retain(|(_, line)| !line.is_empty());
    found
}

fn base(line: usize, rest: &str) -> Result<From, RecipeError> {
    let mut words = rest.split_whitespace().filter(|word| !word.starts_with("--"));
    let name = words.next().unwrap_or_default();
    if words.next().is_some() {
        return wrong(line, "FROM takes one name: stages are not supported");
    }
    Ok(if name.contains(['/', ':', '.']) { From::Image(name.to_owned()) } else { From::Template(name.to_owned()) })
}

/// As it is, or quoted for the shell when it is a JSON list.
fn command(line: usize, rest: &str) -> Result<String, RecipeError> {
    if !rest.starts_with('[') {
        return Ok(rest.to_owned());
    }
    match serde_json::from_str::<Vec<String>>(rest) {
        Ok(words) if !words.is_empty() => Ok(words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")),
        // `[ -f x ] && ...` is a command of the shell.
        _ if rest.starts_with("[ ") => Ok(rest.to_owned()),
        _ => wrong(line, "a command in brackets must be a JSON list of texts"),
    }
}

/// For the shell, whatever it holds.
#[must_use]
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn unquoted(text: &str) -> String {
    let inner = |quote: char| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(text).to_owned()
}

fn copies(line: usize, rest: &str, files: Option<&str>) -> Result<Vec<Step>, RecipeError> {
    let (mut owner, mut mode) = (None, None);
    let mut paths = Vec::new();
    let list = serde_json::from_str::<Vec<String>>(rest).ok();
    let words: Vec<String> = list.unwrap_or_else(|| rest.split_whitespace().map(unquoted).collect());
    for word in words {
        match word.strip_prefix("--") {
            Some(flag) => match flag.split_once('=') {
                Some(("chown", value)) => owner = Some(value.to_owned()),
                Some(("chmod", value)) => mode = Some(value.to_owned()),
                _ => return wrong(line, "COPY knows --chown= and --chmod= alone"),
            },
            None => paths.push(word),
        }
    }
    let Some(destination) = paths.pop().filter(|_| !paths.is_empty()) else {
        return wrong(line, "COPY takes a source and a destination");
    };
    let Some(files) = files else {
        return wrong(
            line,
            "COPY needs uploaded files: PUT them to /v1/templates/files/{hash} and name it as `context`",
        );
    };
    let step = |source: String| Step::Copy {
        source,
        destination: destination.clone(),
        owner: owner.clone(),
        mode: mode.clone(),
        files: files.to_owned(),
    };
    Ok(paths.into_iter().map(step).collect())
}

/// `A=1 B="two words"`, or `A the rest`. Variables in it are filled in when it is built; a dollar that stands for itself
/// (`\$`, or between single quotes) is kept as `\$`.
fn variables(line: usize, rest: &str) -> Result<Vec<(String, String)>, RecipeError> {
    let first = rest.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let value = value.trim();
        let is_literal = value.len() > 1 && value.starts_with('\'') && value.ends_with('\'');
        let value = if is_literal { unquoted(value).replace('$', "\\$") } else { unquoted(value) };
        return Ok(vec![(name.to_owned(), value)]);
    }
    let mut found = Vec::new();
    let mut letters = rest.chars().peekable();
    loop {
        while letters.next_if(|letter| letter.is_whitespace()).is_some() {}
        if letters.peek().is_none() {
            return Ok(found);
        }
        let mut name = String::new();
        loop {
            match letters.next() {
                Some('=') => break,
                Some(letter) if !letter.is_whitespace() => name.push(letter),
                _ => return wrong(line, "ENV takes NAME=VALUE"),
            }
        }
        let mut value = String::new();
        let mut quote = None;
        while let Some(letter) = letters.next() {
            match (letter, quote) {
                ('\\', None | Some('"')) => match letters.next() {
                    Some('$') => value.push_str("\\$"),
                    next => value.extend(next),
                },
                ('$', Some('\'')) => value.push_str("\\$"),
                (letter, Some(open)) if letter == open => quote = None,
                ('"' | '\'', None) => quote = Some(letter),
                (letter, None) if letter.is_whitespace() => break,
                (letter, _) => value.push(letter),
            }
        }
        if quote.is_some() {
            return wrong(line, "a quote is not closed");
        }
        found.push((name, value));
    }
}

impl Recipe {
    /// Whether every part can be, whoever wrote it.
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub fn check(&self) -> Result<(), String> {
        let text = |what: &str, text: &str, most: usize| {
            let fits = !text.is_empty() && text.len() <= most && !text.contains('\0');
            if fits { Ok(()) } else { Err(format!("{what} must have 1 to {most} bytes, without NUL")) }
        };
        let name = |what: &str, name: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
            let fits = (1..=32).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('-');
            if fits { Ok(()) } else { Err(format!("{what} must be letters, digits, `_`, `-` and `.`")) }
        };
        match &self.from {
            From::Template(base) | From::Image(base) => text("FROM", base, 512)?,
            From::Pushed { repository, version } => {
                text("FROM", repository, 512)?;
                text("FROM", version, 512)?;
            }
        }
        if self.steps.len() > MAX_STEPS {
            return Err(format!("there are more than {MAX_STEPS} steps"));
        }
        for step in &self.steps {
            match step {
                Step::Run { cmd, user } => {
                    text("RUN", cmd, MAX_COMMAND)?;
                    user.as_deref().map_or(Ok(()), |user| text("RUN's user", user, 64))?;
                }
                Step::Copy { source, destination, owner, mode, files } => {
                    text("COPY's source", source, 4096)?;
                    text("COPY's destination", destination, 4096)?;
                    if source.split('/').any(|part| part == "..") {
                        return Err(format!("COPY's source `{source}` leads out of the files"));
                    }
                    for owner in owner.iter().flat_map(|owner| owner.splitn(2, ':')) {
                        name("COPY's owner", owner)?;
                    }
                    if let Some(mode) = mode
                        && !((3..=4).contains(&mode.len()) && mode.bytes().all(|byte| (b'0'..=b'7').contains(&byte)))
                    {
                        return Err("COPY's mode must be octal, such as 755".to_owned());
                    }
                    if files.len() != 64 || !files.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                        return Err("the hash of COPY's files must be 64 hex digits".to_owned());
                    }
                }
                Step::Env { variables } => {
                    for (name, value) in variables {
                        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                            return Err("ENV takes NAME=VALUE".to_owned());
                        }
                        text("ENV", name, 4096)?;
                        if value.len() > MAX_COMMAND {
                            return Err(format!("ENV {name} must have at most {MAX_COMMAND} bytes"));
                        }
                    }
                }
                Step::Workdir { path } => text("WORKDIR", path, 4096)?,
                Step::User { name: user, .. } => name("USER", user)?,
            }
        }
        for command in [&self.start_cmd, &self.ready_cmd].into_iter().flatten() {
            text("a start or ready command", command, MAX_COMMAND)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_whole_recipe_is_understood() {
        let text = "# my template\nFROM debian:12\n\nENV A=1 B=\"two words\" C=x\\ y\nenv OLD style value\n\
                    RUN apt-get update && \\\n    # a comment between\n    apt-get install -y jq\nWORKDIR /srv\n\
                    COPY --chown=user:user --chmod=755 a b/ dest/\nUSER worker\nCMD [\"python3\", \"-m\", \"http.server\"]\n\
                    READY [ -f /tmp/ready ] && true\n";
        let files = "ab".repeat(32);
        let recipe = parse(text, Some(&files)).unwrap();
        assert_eq!(recipe.from, From::Image("debian:12".to_owned()));
        assert_eq!(recipe.start_cmd.as_deref(), Some("'python3' '-m' 'http.server'"));
        assert_eq!(recipe.ready_cmd.as_deref(), Some("[ -f /tmp/ready ] && true"));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            recipe.steps[0],
            Step::Env { variables: vec![pair("A", "1"), pair("B", "two words"), pair("C", "x y")] }
        );
        assert_eq!(recipe.steps[1], Step::Env { variables: vec![pair("OLD", "style value")] });
        let Step::Run { cmd, .. } = &recipe.steps[2] else { panic!() };
        assert_eq!(cmd, "apt-get update && apt-get install -y jq");
        let Step::Copy { source, destination, owner, mode, .. } = &recipe.steps[5] else { panic!() };
        assert_eq!((source.as_str(), destination.as_str()), ("b/", "dest/"));
        assert_eq!((owner.as_deref(), mode.as_deref()), (Some("user:user"), Some("755")));
        assert_eq!(recipe.steps.len(), 7);
        assert_eq!(parse("FROM base", None).unwrap().from, From::Template("base".to_owned()));
        let env = parse("FROM base\nENV A=$B C='$B' D=\\$B E=\"x$B\"\nENV OLD '$B'", None).unwrap().steps;
        let pairs = ["A=$B", "C=\\$B", "D=\\$B", "E=x$B"].map(|text| text.split_once('=').unwrap());
        assert_eq!(env[0], Step::Env { variables: pairs.map(|(name, value)| pair(name, value)).to_vec() });
        assert_eq!(env[1], Step::Env { variables: vec![pair("OLD", "\\$B")] });
    }

    #[test]
    fn what_can_not_be_built_is_refused_with_its_line() {
        for (text, line) in [
            ("RUN x", 1),
            ("", 1),
            ("FROM a\nFROM b", 2),
            ("FROM a\nRUN", 2),
            ("FROM a\n\nVOLUME /x", 3),
            ("FROM a\nCOPY x y", 2),
            ("FROM a\nENV =x", 1),
            ("FROM a\nENV A=\"x", 2),
            ("FROM a AS b", 1),
        ] {
            assert_eq!(parse(text, None).unwrap_err().line, line, "{text:?}");
        }
        let files = "ab".repeat(32);
        assert!(parse("FROM a\nCOPY ../x y", Some(&files)).is_err());
        assert!(parse("FROM a\nCOPY --chown=$(id) x y", Some(&files)).is_err());
        assert!(parse("FROM a\nUSER a;b", None).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_a_recipe_or_an_error(text in "(FROM [a-z:/.]{0,9}\n)?([A-Z]{0,7} [ -~\n\\\\\"']{0,40}\n){0,6}") {
            if let Ok(recipe) = parse(&text, Some(&"0".repeat(64))) {
                prop_assert_eq!(recipe.check(), Ok(()));
            }
        }

        #[test]
        fn a_quoted_word_is_one_word_to_the_shell(word in "[ -~]{0,30}") {
            let output = std::process::Command::new("sh").args(["-c", &format!("printf %s {}", quoted(&word))]).output();
            prop_assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), word);
        }
    }
}
