//! From the options of a new sandbox to the request that creates it.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use atoll_client::model::api::sandboxes::CreateSandboxRequest;

use crate::cli::client::Shape;

pub fn request(shape: &Shape) -> anyhow::Result<CreateSandboxRequest> {
    Ok(CreateSandboxRequest {
        template: shape.template.clone(),
        vcpus: shape.vcpus,
        memory_mb: shape.memory,
        disk_mb: shape.disk,
        driver: shape.driver.clone(),
        env: environment(&shape.env)?,
        metadata: pairs(&shape.label)?.into_iter().collect(),
        internet: shape.no_internet.then_some(false),
        public: shape.public.then_some(true),
        ..CreateSandboxRequest::default()
    })
}

/// `NAME=VALUE`, or `NAME` for the value that it has here.
pub fn environment(given: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut environment = BTreeMap::new();
    for text in given {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => {
                let value =
                    std::env::var(text).with_context(|| format!("--env {text}: there is no such variable here"))?;
                (text.as_str(), value)
            }
        };
        if name.is_empty() {
            bail!("--env `{text}`: expected NAME=VALUE");
        }
        environment.insert(name.to_owned(), value);
    }
    Ok(environment)
}

/// `NAME=VALUE` pairs.
pub fn pairs(given: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let split = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => bail!("`{text}`: expected NAME=VALUE"),
    };
    given.iter().map(split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_hold_equals_signs_and_be_empty() {
        let given = ["A=b=c".to_owned(), "EMPTY=".to_owned()];
        let environment = environment(&given).unwrap();
        assert_eq!((environment["A"].as_str(), environment["EMPTY"].as_str()), ("b=c", ""));
        assert!(super::environment(&["=x".to_owned()]).is_err());
        assert!(pairs(&["no-value".to_owned()]).is_err());
    }
}
