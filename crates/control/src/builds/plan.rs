//! The steps of a build: which there are, and what each means for the programs after it.

use super::expand::{expand, known};
use super::ground::Ground;
use super::log::Log;
use super::recipe::{Recipe, Step};
use super::run::{Ended, failed};

/// The steps of a build, those that its recipe implies first.
pub(super) struct Plan<'a> {
    pub recipe: &'a Recipe,
    pub steps: Vec<Step>,
    /// How many the recipe implies.
    implied: usize,
    /// Steps from here on are built although they were before.
    pub anew_from: usize,
}

impl<'a> Plan<'a> {
    pub fn of(recipe: &'a Recipe) -> Self {
        let mut steps = recipe.prelude();
        let implied = steps.len();
        steps.extend(recipe.steps.iter().cloned());
        let anew_from = match recipe.fresh_from {
            _ if recipe.force => 0,
            Some(first) => implied + first,
            None => usize::MAX,
        };
        Self { recipe, steps, implied, anew_from }
    }

    /// Says in the log what comes next, under the number that the recipe's writer knows it by.
    pub fn announce(&self, log: &Log, number: usize, what: &str) {
        match (number + 1).checked_sub(self.implied).filter(|number| *number > 0) {
            Some(number) => {
                log.step(number.to_string());
                log.info(&format!("step {number} of {}: {what}", self.steps.len() - self.implied));
            }
            None => log.info(&format!("preparing: {what}")),
        }
    }
}

pub(super) fn describe(step: &Step) -> String {
    match step {
        Step::Run { cmd, .. } => format!("RUN {cmd}"),
        Step::Copy { source, destination, .. } => format!("COPY {source} {destination}"),
        Step::Env { variables } => {
            format!("ENV {}", variables.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" "))
        }
        Step::Workdir { path } => format!("WORKDIR {path}"),
        Step::User { name, .. } => format!("USER {name}"),
    }
}

/// Whether a step's outcome is in files: only such steps end with a layer.
pub(super) const fn changes_files(step: &Step) -> bool {
    !matches!(step, Step::Env { .. })
}

/// What a step means for the programs after it.
pub(super) fn settings(ground: &mut Ground, step: &Step) -> Result<(), Ended> {
    match step {
        Step::Env { variables } => {
            // Each line sees what was said above it, and not itself.
            let above = ground.env.clone();
            for (name, value) in variables {
                let value = expand(value, &known(&above, &ground.user))
                    .map_err(|error| failed(format!("ENV {name}: {error}")))?;
                ground.env.insert(name.clone(), value);
            }
        }
        Step::Workdir { path } => {
            let path =
                expand(path, &known(&ground.env, &ground.user)).map_err(|error| failed(format!("WORKDIR: {error}")))?;
            ground.workdir =
                if path.starts_with('/') { path } else { format!("{}/{path}", ground.workdir.trim_end_matches('/')) };
        }
        Step::User { name, .. } => ground.user.clone_from(name),
        Step::Run { .. } | Step::Copy { .. } => {}
    }
    Ok(())
}
