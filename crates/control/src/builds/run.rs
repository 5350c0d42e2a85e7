//! One build, from its base to its product.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atoll_model::BuildId;

use super::Builds;
use super::expand::{expand, known};
use super::ground::{Ground, MEMORY_MB, VCPUS, key, next_key};
use super::inside::Inside;
use super::log::Log;
use super::plan::{Plan, changes_files, describe, settings};
use super::recipe::{Recipe, Step};
use super::store::{self, BuildRow, Heard, Product};
use super::{steps, tags};
use crate::layers::{self, Wanted};
use crate::oci::Login;
use crate::sandboxes::{Owner, SandboxRecord, VM};
use crate::templates::store::Template;

/// How often a build looks whether somebody wants it to end, and says that it is alive.
const BEAT: Duration = Duration::from_secs(1);
/// A whole build.
const DEADLINE: Duration = Duration::from_secs(6 * 3600);
/// For the ready command.
pub(super) const READY: Duration = Duration::from_secs(300);

/// Why a build has no product.
pub(super) enum Ended {
    Failed(String),
    Cancelled,
    /// Its row was ended already.
    Over,
}

impl<E: std::error::Error> std::convert::From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

pub(super) fn failed(problem: impl Into<String>) -> Ended {
    Ended::Failed(problem.into())
}

impl Builds {
    /// To its end. Whatever it comes to is in its row and its log.
    pub(super) async fn run(&self, owner: &Owner, build: BuildRow, login: Option<Login>) {
        let id = build.id.0.clone();
        let log = Log::new(self.db.clone(), self.clock.clone(), id.clone());
        log.step("base");
        let begun = AtomicBool::new(false);
        let work = async {
            let _turn = self.turns.take(&owner.team).await;
            begun.store(true, Ordering::Relaxed);
            store::beat(&self.db, &id, "building", self.clock.now()).await?;
            self.work(owner, &build, login.as_ref(), &log).await
        };
        let beats = async {
            loop {
                tokio::time::sleep(BEAT).await;
                let status = if begun.load(Ordering::Relaxed) { "building" } else { "waiting" };
                match store::beat(&self.db, &id, status, self.clock.now()).await {
                    Ok(Heard::GoOn) => {}
                    Ok(Heard::Cancel) => return Ended::Cancelled,
                    Ok(Heard::Over) => return Ended::Over,
                    // Its work is about to say so itself.
                    Ok(Heard::Ready) => std::future::pending().await,
                    Err(error) => tracing::warn!(build = %id, %error, "a build could not say that it is alive"),
                }
            }
        };
        let result = tokio::select! {
            result = work => result,
            ended = beats => Err(ended),
            never = log.keep_writing() => match never {},
            () = tokio::time::sleep(DEADLINE) => Err(failed("it took longer than 6 hours")),
        };
        let now = self.clock.now();
        // The log first: who reads that a build is over finds all that it said.
        let noted = match result {
            Ok(()) => {
                self.squash_later(&build);
                Ok(())
            }
            Err(Ended::Over) => {
                log.say("error", "the build was ended as one that no server works on any more");
                log.flush().await;
                Ok(())
            }
            Err(Ended::Cancelled) => {
                log.say("warn", "the build was cancelled");
                log.flush().await;
                store::fail(&self.db, &id, "cancelled", "cancelled", log.current_step().as_deref(), now).await
            }
            Err(Ended::Failed(reason)) => {
                log.say("error", &reason);
                log.flush().await;
                tracing::info!(build = %id, reason, "a build failed");
                store::fail(&self.db, &id, "error", &reason, log.current_step().as_deref(), now).await
            }
        };
        if let Err(error) = noted {
            tracing::error!(build = %id, %error, "the end of a build could not be noted");
        }
        if let Err(error) = self.tend(false).await {
            tracing::warn!(build = %id, %error, "what a build leaves could not be cleared away yet");
        }
    }

    /// Packs a tall stack of the product's, in a task of its own: the build is over, and packing may take minutes.
    fn squash_later(&self, build: &BuildRow) {
        let (layers, holders) = (self.layers.clone(), [build.template_id.to_string(), build.id.to_string()]);
        self.sandboxes.tasks().spawn(async move {
            for holder in holders {
                if let Err(error) = layers.squash_if_tall(&holder, None).await {
                    tracing::warn!(holder, %error, "a stack of layers could not be packed into one yet");
                }
            }
        });
    }

    async fn work(&self, owner: &Owner, build: &BuildRow, login: Option<&Login>, log: &Log) -> Result<(), Ended> {
        let recipe = &build.spec.0;
        let plan = Plan::of(recipe);
        let mut ground = self.base(owner, recipe, login, log).await?;
        if ground.driver == VM {
            let why =
                if ground.template.driver == VM { "as what it is from" } else { "there is no host for containers" };
            log.info(&format!("its steps run in a virtual machine: {why}"));
            ground.key = key(&[&ground.key, VM]);
        }
        let disk_mb = ground.disk_mb(build);
        if recipe.as_user {
            // The same steps come out otherwise than as root.
            ground.key = key(&[&ground.key, "as user"]);
        }
        // What was built before needs no sandbox: settings are followed along, layers are taken from the last known step.
        let mut first = 0;
        let mut at = ground.clone();
        for (number, step) in plan.steps.iter().enumerate() {
            at.key = next_key(&at, step);
            settings(&mut at, step)?;
            if number < plan.anew_from
                && changes_files(step)
                && steps::cached(&self.db, &at.key, &owner.team, self.clock.now()).await?
            {
                at.chain = self.layers.chain(&at.key).await?;
                if at.chain.is_empty() || !self.can_go_on_from(owner, &at, disk_mb).await {
                    break;
                }
                first = number + 1;
                ground = at.clone();
            }
        }
        for number in 0..first {
            plan.announce(log, number, "as it was built before");
        }
        let rest = &plan.steps[first..];
        if !rest.is_empty() || recipe.start_cmd.is_some() || recipe.ready_cmd.is_some() {
            if ground.chain.len() >= layers::MAX_LAYERS {
                ground.chain = vec![self.layers.pack_stack(&ground.chain, None).await?];
            }
            let sandbox = self.sandbox(owner, &build.id.0, &ground, disk_mb).await?;
            let id = sandbox.id.0.clone();
            let result = self.steps(owner, &plan, &mut ground, sandbox, first, log).await;
            self.sandboxes.destroy_now(&id, "build_over").await;
            result?;
        }
        if Self::driver_of_product(recipe, &ground) == VM && !ground.is_disk() {
            // Of what containers have left, machines read the image, and maybe on another host.
            for layer in ground.chain.iter_mut().filter(|layer| !layer.stored) {
                log.info("storing its files for virtual machines");
                let stored = self.layers.store(layer).await?;
                *layer = stored.ok_or_else(|| failed("a layer of it was deleted meanwhile"))?;
            }
        }
        let disk_mb = match recipe.keep_memory {
            true => self.keep_memory(owner, build, &mut ground, log).await?,
            false => disk_mb,
        };
        self.complete(build, &ground, disk_mb, log).await
    }

    async fn sandbox(
        &self,
        owner: &Owner,
        build: &BuildId,
        ground: &Ground,
        disk_mb: u64,
    ) -> Result<SandboxRecord, Ended> {
        let new = ground.sandbox(build, (Some(VCPUS), Some(MEMORY_MB), disk_mb));
        let template = Template { start_cmd: None, ready_cmd: None, ..ground.template.clone() };
        Ok(self.sandboxes.create_from(owner, new, template, ground.chain.clone()).await?)
    }

    async fn steps(
        &self,
        owner: &Owner,
        plan: &Plan<'_>,
        ground: &mut Ground,
        sandbox: SandboxRecord,
        first: usize,
        log: &Log,
    ) -> Result<(), Ended> {
        let recipe = plan.recipe;
        let host = sandbox.host().cloned().ok_or_else(|| failed("its sandbox has no host"))?;
        let below = ground.chain.clone();
        let _active = self.sandboxes.activity().open(&sandbox.id);
        let mut inside = Inside {
            fleet: self.sandboxes.fleet().clone(),
            host: host.clone(),
            sandbox: sandbox.id.0.clone(),
            log: log.clone(),
            // A build begins as root, whatever programs in its sandboxes run as; unless it asks for the latter.
            user: if recipe.as_user { ground.user.clone() } else { "root".to_owned() },
            workdir: ground.workdir.clone(),
            env: ground.env.clone().into_iter().collect(),
        };
        for step in &plan.steps[..first] {
            if let Step::User { name, .. } = step {
                inside.user.clone_from(name);
            }
        }
        for (number, step) in plan.steps.iter().enumerate().skip(first) {
            plan.announce(log, number, &describe(step));
            ground.key = next_key(ground, step);
            settings(ground, step)?;
            inside.env = ground.env.clone().into_iter().collect();
            match step {
                Step::Run { cmd, user } => {
                    let user = user.clone().unwrap_or_else(|| inside.user.clone());
                    inside.run(cmd, &user).await.map_err(failed)?;
                }
                Step::Copy { source, destination, owner: whose, mode, files } => {
                    let kept = self.layers.objects().files(&Self::context_key(&owner.team, files)).await?;
                    let archive =
                        kept.ok_or_else(|| failed(format!("the files {files} were not uploaded, or long ago")))?;
                    let (whose, mode) = (whose.as_deref(), mode.as_deref());
                    let destination = expand(destination, &known(&ground.env, &ground.user))?;
                    inside.copy(archive, source, &destination, whose, mode).await.map_err(failed)?;
                }
                Step::Env { .. } => {}
                Step::Workdir { .. } => {
                    inside.workdir.clone_from(&ground.workdir);
                    inside.make_directory(&inside.workdir).await.map_err(failed)?;
                }
                Step::User { name, sudo } => {
                    inside.make_user(name, *sudo).await.map_err(failed)?;
                    inside.user.clone_from(name);
                }
            }
            if changes_files(step) {
                let made =
                    self.layers.make(&owner.team, owner.team_is_byoc, &sandbox.id, &host, Wanted::default()).await?;
                crate::failpoint!("control::build::after_step");
                let below = made.below(&below);
                ground.chain = std::iter::once(made.layer).chain(below).collect();
                let mut tx = self.db.begin().await?;
                steps::remember(&mut tx, &ground.key, &owner.team, self.clock.now()).await?;
                layers::store::refer(&mut tx, &ground.key, &ground.chain).await?;
                tx.commit().await?;
            }
        }
        log.step("finalize");
        inside.user.clone_from(&ground.user);
        if let Some(command) = &recipe.start_cmd {
            log.info("trying the start command");
            let script = format!("({command}) >/tmp/.atoll-start.log 2>&1 &");
            inside.run(&script, &ground.user).await.map_err(failed)?;
        }
        if let Some(command) = &recipe.ready_cmd {
            log.info("waiting until it is ready");
            inside.wait_ready(command, READY).await.map_err(failed)?;
        }
        Ok(())
    }

    /// What the sandboxes of the product run in.
    fn driver_of_product(recipe: &Recipe, ground: &Ground) -> String {
        match &recipe.driver {
            _ if ground.is_disk() => VM.to_owned(),
            Some(driver) => driver.clone(),
            None => ground.template.driver.clone(),
        }
    }

    async fn complete(&self, build: &BuildRow, ground: &Ground, disk_mb: u64, log: &Log) -> Result<(), Ended> {
        log.info("the template is ready");
        log.flush().await;
        let recipe = &build.spec.0;
        let mut tags = build.tags.0.clone();
        let now = self.clock.now();
        let product = Product {
            driver: Self::driver_of_product(recipe, ground),
            disk_mb: ground.is_disk().then(|| i64::try_from(disk_mb).unwrap_or(i64::MAX)),
            digest: ground.template.digest.clone(),
            size_bytes: ground.template.size_bytes + ground.chain.iter().map(|layer| layer.size_bytes).sum::<i64>(),
            default_user: ground.user.clone(),
            default_workdir: ground.workdir.clone(),
            env: ground.env.clone(),
            start_cmd: recipe.start_cmd.clone().or_else(|| ground.template.start_cmd.clone()),
            ready_cmd: recipe.ready_cmd.clone().or_else(|| ground.template.ready_cmd.clone()),
        };
        if tags.is_empty() {
            tags.push("default".to_owned());
        }
        let (template, id) = (&build.template_id.0, &build.id.0);
        let mut tx = self.db.begin().await?;
        if !store::complete(&mut tx, id, &product, now).await? {
            return Err(Ended::Cancelled);
        }
        layers::store::refer(&mut tx, id.as_str(), &ground.chain).await?;
        for tag in &tags {
            tags::set(&mut tx, template, tag, id, now).await?;
        }
        if tags.iter().any(|tag| tag == "default") {
            store::point_template(&mut tx, template, build, &product, now).await?;
            layers::store::refer(&mut tx, template.as_str(), &ground.chain).await?;
        }
        tags::release_untagged(&mut tx, template).await?;
        crate::failpoint!("control::build::before_commit", Err(failed("a failpoint")));
        tx.commit().await?;
        crate::failpoint!("control::build::after_commit");
        self.layers.nudge();
        Ok(())
    }
}
