//! `$NAME`, `${NAME}`, `${NAME:-else}` and `${NAME:+then}` in what a recipe says, as Dockerfiles have them. `\$` is a
//! dollar. What is not known is empty. Bounded, for each line may use the one above twice.

use std::collections::BTreeMap;

/// Longest text that may come out.
pub const MAX_EXPANDED: usize = 64 << 10;
/// Braces within braces.
const MAX_DEPTH: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("with its variables filled in it has more than {MAX_EXPANDED} bytes")]
pub struct TooLong;

/// What variables mean to a program of `user`, before anything else is said.
pub fn known<'a>(env: &'a BTreeMap<String, String>, user: &'a str) -> impl Fn(&str) -> Option<String> + 'a {
    move |name| {
        env.get(name).cloned().or_else(|| match name {
            // As the guest agent has it.
            "PATH" => Some("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            "HOME" if user == "root" => Some("/root".to_owned()),
            "HOME" => Some(format!("/home/{user}")),
            _ => None,
        })
    }
}

/// The text with its variables filled in.
///
/// # Errors
/// [`TooLong`].
pub fn expand(text: &str, known: &impl Fn(&str) -> Option<String>) -> Result<String, TooLong> {
    let mut out = String::new();
    fill(text, known, &mut out, 0)?;
    Ok(out)
}

fn push(out: &mut String, text: &str) -> Result<(), TooLong> {
    if out.len() + text.len() > MAX_EXPANDED {
        return Err(TooLong);
    }
    out.push_str(text);
    Ok(())
}

fn fill(text: &str, known: &impl Fn(&str) -> Option<String>, out: &mut String, depth: usize) -> Result<(), TooLong> {
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        if let Some(before) = before.strip_suffix('\\') {
            push(out, before)?;
            push(out, "$")?;
            rest = after;
            continue;
        }
        push(out, before)?;
        rest = match after.strip_prefix('{').and_then(|inner| Some((inner, closing(inner)?))) {
            Some((inner, end)) if depth < MAX_DEPTH && braces(&inner[..end], known, out, depth)? => &inner[end + 1..],
            _ => {
                let end = name_length(after);
                if end == 0 {
                    push(out, "$")?;
                } else if let Some(value) = known(&after[..end]) {
                    push(out, &value)?;
                }
                &after[end..]
            }
        };
    }
    push(out, rest)
}

/// What stands in braces. False when it is nothing that is understood: it stays as it is.
fn braces(
    inner: &str,
    known: &impl Fn(&str) -> Option<String>,
    out: &mut String,
    depth: usize,
) -> Result<bool, TooLong> {
    let (name, rest) = inner.split_at(name_length(inner));
    if name.is_empty() {
        return Ok(false);
    }
    let value = known(name);
    let full = value.as_deref().filter(|value| !value.is_empty());
    if rest.is_empty() {
        push(out, value.as_deref().unwrap_or_default())?;
    } else if let Some(other) = rest.strip_prefix(":-") {
        match full {
            Some(value) => push(out, value)?,
            None => fill(other, known, out, depth + 1)?,
        }
    } else if let Some(other) = rest.strip_prefix('-') {
        match &value {
            Some(value) => push(out, value)?,
            None => fill(other, known, out, depth + 1)?,
        }
    } else if let Some(other) = rest.strip_prefix(":+") {
        if full.is_some() {
            fill(other, known, out, depth + 1)?;
        }
    } else {
        return Ok(false);
    }
    Ok(true)
}

/// Where the brace that was opened before `text` is closed.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}

fn name_length(text: &str) -> usize {
    let fits =
        |(at, byte): (usize, u8)| byte == b'_' || byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit());
    text.bytes().enumerate().take_while(|it| fits(*it)).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(text: &str) -> String {
        let env = BTreeMap::from(
            [("A", "1"), ("B_2", "two words"), ("NONE", ""), ("LOOP", "$A")]
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        expand(text, &known(&env, "worker")).unwrap()
    }

    #[test]
    fn variables_are_filled_in_as_a_dockerfile_has_them() {
        for (text, wanted) in [
            ("plain", "plain"),
            ("$A", "1"),
            ("/x:$PATH", "/x:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("${HOME}/bin", "/home/worker/bin"),
            ("$B_2-${A}b$A", "two words-1b1"),
            ("$NOBODY${NOBODY}.", "."),
            ("${NOBODY:-else} ${NONE:-else} ${NONE-else} ${A:-else}", "else else  1"),
            ("${A:+then} ${NONE:+then}.", "then ."),
            ("${NOBODY:-${A:-x}y}z", "1yz"),
            // What comes out is not looked at again.
            ("$LOOP", "$A"),
            (r"\$A costs 5$ ${} ${A", "$A costs 5$ ${} ${A"),
            ("ü$Aü", "ü1ü"),
        ] {
            assert_eq!(filled(text), wanted, "{text}");
        }
    }

    #[test]
    fn what_doubles_at_each_line_comes_to_an_end() {
        let mut env = BTreeMap::from([("A".to_owned(), "xx".to_owned())]);
        let mut end = None;
        for _ in 0..100 {
            let longer = expand("$A$A", &known(&env, "root"));
            match longer {
                Ok(longer) => {
                    assert!(longer.len() <= MAX_EXPANDED);
                    env.insert("A".to_owned(), longer);
                }
                Err(error) => end = Some(error),
            }
        }
        assert_eq!(end, Some(TooLong));
        let deep = format!("{}{}", "${Z:-".repeat(10_000), "}".repeat(10_000));
        let _ = expand(&deep, &known(&env, "root"));
    }

    proptest! {
        #[test]
        fn any_text_is_expanded_or_too_long(text in "[$a-zA-Z{}:+\\\\ü-]{0,60}") {
            let env = BTreeMap::from([("A".to_owned(), "b".repeat(100))]);
            let _ = expand(&text, &known(&env, "root"));
        }
    }
}
