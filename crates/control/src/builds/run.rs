//! One build, from its base to its product.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atoll_model::sandbox::OnReboot;
use atoll_model::{BuildId, OnTimeout, TeamId};
use sha2::{Digest, Sha256};
use sqlx::types::Json;

use super::expand::{expand, known};
use super::inside::Inside;
use super::log::Log;
use super::recipe::{From, Recipe, Step};
use super::store::{self, BuildRow, Heard, Product};
use super::{Builds, PURPOSE};
use super::{steps, tags};
use crate::fleet::{ANY_DRIVER, Demand};
use crate::layers::{self, LayerRow, Wanted};
use crate::oci::{Login, Pulled, Reference};
use crate::registry::{Pushed, Registry};
use crate::sandboxes::{DEFAULT_DISK_MB, Network, NewSandbox, Owner, SandboxRecord, StartFrom, VM};
use crate::templates::store::{self as templates, Template};

/// How often a build looks whether somebody wants it to end, and says that it is alive.
const BEAT: Duration = Duration::from_secs(1);
/// A whole build.
const DEADLINE: Duration = Duration::from_secs(6 * 3600);
/// For the ready command.
const READY: Duration = Duration::from_secs(300);
const VCPUS: u32 = 2;
const MEMORY_MB: u64 = 1024;
const DISK_MB: u64 = 10_240;

/// What a build stands on, and what programs in it get.
#[derive(Clone)]
struct Ground {
    template: Template,
    chain: Vec<LayerRow>,
    user: String,
    workdir: String,
    env: BTreeMap<String, String>,
    key: String,
    /// `container` or `vm`: what its steps run in. Layers of one are nothing to the other.
    driver: String,
}

impl Ground {
    /// How large the disk of a build's sandbox is. That of a machine becomes the disk of those that are made of it, so it
    /// is as large as theirs; and one that began as another's is as large as that.
    fn disk_mb(&self, build: &BuildRow) -> u64 {
        if self.driver != VM {
            return DISK_MB;
        }
        let inherited = self.template.disk_mb.filter(|_| !self.chain.is_empty());
        inherited.or(build.disk_mb).and_then(|size| u64::try_from(size).ok()).unwrap_or(DEFAULT_DISK_MB)
    }
}

/// Why a build has no product.
enum Ended {
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

fn failed(problem: impl Into<String>) -> Ended {
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
        let mut ground = self.base(owner, &recipe.from, login, log).await?;
        if ground.driver == VM {
            log.info("its steps run in a virtual machine: there is no host for containers");
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
        self.complete(build, &ground, disk_mb, log).await
    }

    async fn base(&self, owner: &Owner, from: &From, login: Option<&Login>, log: &Log) -> Result<Ground, Ended> {
        match from {
            From::Template(name) => {
                log.info(&format!("from the template {name}"));
                let (template, holder) = self.resolve(owner, name).await?;
                let chain = self.layers.chain(&holder).await?;
                layers::allowed(&chain, &owner.team, owner.team_is_byoc)?;
                let ids: Vec<_> = chain.iter().map(|layer| layer.id.to_string()).collect();
                let key = first_key(&owner.team, &template.digest, &ids);
                let (user, workdir) = (template.default_user.clone(), template.default_workdir.clone());
                let driver = self.driver(owner, &template).await?;
                Ok(Ground { chain, user, workdir, env: template.env.0.clone(), key, driver, template })
            }
            From::Image(_) | From::Pushed { .. } => {
                let say = {
                    let log = log.clone();
                    move |line: String| log.info(&line)
                };
                let pulled = self.pull(owner, from, login, &say).await?;
                let own = templates::find(&self.db, "base", &owner.team).await?;
                let template = own.ok_or_else(|| failed("there is no template `base`"))?;
                let template = Template {
                    digest: pulled.digest.clone(),
                    size_bytes: pulled.size_bytes,
                    env: Json(BTreeMap::new()),
                    ..template
                };
                Ok(Ground {
                    chain: Vec::new(),
                    user: pulled.config.user,
                    workdir: pulled.config.workdir,
                    env: pulled.config.env,
                    key: first_key(&owner.team, &pulled.digest, &[]),
                    driver: self.driver(owner, &template).await?,
                    template,
                })
            }
        }
    }

    /// The image, from a registry or from what the team has pushed here.
    async fn pull(
        &self,
        owner: &Owner,
        from: &From,
        login: Option<&Login>,
        say: &(dyn Fn(String) + Send + Sync),
    ) -> Result<Pulled, Ended> {
        match from {
            From::Pushed { repository, version } => {
                say(format!("reading {repository}, as it was pushed"));
                let registry = Registry::new(self.db.clone(), self.clock.clone(), self.layers.objects().clone());
                let mut pushed = Pushed { registry, team: owner.team.clone(), repository: repository.clone() };
                Ok(self.puller.pull_from(&mut pushed, Some(&owner.team), version, repository, say).await?)
            }
            From::Template(text) | From::Image(text) => {
                let reference: Reference = text.parse()?;
                say(format!("pulling {reference}"));
                Ok(self.puller.pull(&reference, (&owner.team, login), say).await?)
            }
        }
    }

    /// What the steps of a build from this template run in: what it belongs to, or what there is.
    async fn driver(&self, owner: &Owner, template: &Template) -> Result<String, Ended> {
        match template.driver.as_str() {
            ANY_DRIVER => Ok(self.sandboxes.driver_for_builds(owner).await?.to_owned()),
            driver => Ok(driver.to_owned()),
        }
    }

    /// A template by `name[:tag]`, and what holds its layers.
    async fn resolve(&self, owner: &Owner, name: &str) -> Result<(Template, String), Ended> {
        let found = templates::resolve(&self.db, name, &owner.team).await?;
        let (mut template, holder) = found.ok_or_else(|| failed(format!("template '{name}' not found")))?;
        if template.digest.is_empty() && template.team_id.is_none() {
            template = self.sandboxes.shipped(&template.name).await?;
        }
        if template.digest.is_empty() {
            return Err(failed(format!("template '{name}' was never built")));
        }
        Ok((template, holder))
    }

    /// Whether a sandbox can stand on these layers now. They may lie on one host alone, which is away, drains, is full or
    /// gone; then the steps are built anew elsewhere.
    async fn can_go_on_from(&self, owner: &Owner, ground: &Ground, disk_mb: u64) -> bool {
        let allowed = layers::allowed(&ground.chain, &owner.team, owner.team_is_byoc);
        match allowed.and_then(|()| layers::pinned(&ground.chain)) {
            Ok(None) => true,
            Ok(Some(host)) => {
                let demand = Demand {
                    team: owner.team.clone(),
                    team_is_byoc: owner.team_is_byoc,
                    driver: ground.driver.clone(),
                    vm_version: None,
                    vcpus: VCPUS,
                    memory_mb: MEMORY_MB,
                    disk_mb,
                    image: Some(ground.template.digest.clone()),
                    only: Some(host),
                    volumes_on: None,
                    tried: Vec::new(),
                };
                self.sandboxes.has_place_for(&demand).await
            }
            Err(_) => false,
        }
    }

    async fn sandbox(
        &self,
        owner: &Owner,
        build: &BuildId,
        ground: &Ground,
        disk_mb: u64,
    ) -> Result<SandboxRecord, Ended> {
        let new = NewSandbox {
            lifetime_sec: None,
            template: ground.template.name.clone(),
            vcpus: Some(VCPUS),
            memory_mb: Some(MEMORY_MB),
            disk_mb: Some(disk_mb),
            // A build that is killed with everything around it leaves a sandbox that ends by itself.
            timeout_sec: 7200,
            on_timeout: OnTimeout::Kill,
            auto_resume: false,
            on_reboot: OnReboot::Stop,
            driver: Some(ground.driver.clone()),
            // Of a snapshot of a machine, what ran in it is nothing to a build.
            start_from: (ground.driver == VM).then_some(StartFrom::Files),
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            volumes: Vec::new(),
            metadata: BTreeMap::new(),
            network: Network::default(),
            keep_if_abandoned: true,
            purpose: format!("{PURPOSE} {build}"),
            times: Default::default(),
        };
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

    async fn complete(&self, build: &BuildRow, ground: &Ground, disk_mb: u64, log: &Log) -> Result<(), Ended> {
        log.info("the template is ready");
        log.flush().await;
        let recipe = &build.spec.0;
        let mut tags = build.tags.0.clone();
        let now = self.clock.now();
        let is_disk = ground.driver == VM && !ground.chain.is_empty();
        let product = Product {
            driver: if is_disk { VM } else { ANY_DRIVER }.to_owned(),
            disk_mb: is_disk.then(|| i64::try_from(disk_mb).unwrap_or(i64::MAX)),
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

/// The steps of a build, those that its recipe implies first.
struct Plan<'a> {
    recipe: &'a Recipe,
    steps: Vec<Step>,
    /// How many the recipe implies.
    implied: usize,
    /// Steps from here on are built although they were before.
    anew_from: usize,
}

impl<'a> Plan<'a> {
    fn of(recipe: &'a Recipe) -> Self {
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
    fn announce(&self, log: &Log, number: usize, what: &str) {
        match (number + 1).checked_sub(self.implied).filter(|number| *number > 0) {
            Some(number) => {
                log.step(number.to_string());
                log.info(&format!("step {number} of {}: {what}", self.steps.len() - self.implied));
            }
            None => log.info(&format!("preparing: {what}")),
        }
    }
}

fn describe(step: &Step) -> String {
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
const fn changes_files(step: &Step) -> bool {
    !matches!(step, Step::Env { .. })
}

/// What a step means for the programs after it.
fn settings(ground: &mut Ground, step: &Step) -> Result<(), Ended> {
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

/// Stands for what a build begins with. Built steps are a team's own: what it copies in, and what a name leads to, only
/// it can know.
fn first_key(team: &TeamId, digest: &str, layers: &[String]) -> String {
    key(&[team.as_str(), digest, &layers.join(" ")])
}

/// Stands for everything up to and with this step.
fn next_key(ground: &Ground, step: &Step) -> String {
    let step = serde_json::to_string(step).unwrap_or_default();
    let env = serde_json::to_string(&ground.env).unwrap_or_default();
    key(&[&ground.key, &step, &env, &ground.user, &ground.workdir])
}

fn key(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    format!("stp-{}", hex::encode(hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_team_has_built_is_never_found_by_another() {
        let (one, other) = (TeamId::new(), TeamId::new());
        let layers = ["lay-1".to_owned(), "lay-2".to_owned()];
        assert_eq!(first_key(&one, "d", &layers), first_key(&one, "d", &layers));
        assert_ne!(first_key(&one, "d", &layers), first_key(&other, "d", &layers));
        assert_ne!(first_key(&one, "d", &layers), first_key(&one, "d", &layers[..1]));
        assert_ne!(first_key(&one, "d", &layers), first_key(&one, "e", &layers));
    }
}
