//! What a build stands on: the template or image that it is from, and the steps that were built before.

use std::collections::BTreeMap;

use atoll_model::sandbox::OnReboot;
use atoll_model::{BuildId, OnTimeout, TeamId};
use sha2::{Digest, Sha256};
use sqlx::types::Json;

use super::log::Log;
use super::recipe::{From, Recipe, Step};
use super::run::{Ended, failed};
use super::store::BuildRow;
use super::{Builds, PURPOSE};
use crate::fleet::{ANY_DRIVER, Demand};
use crate::layers::{self, LayerRow};
use crate::oci::{Login, Pulled, Reference};
use crate::registry::{Pushed, Registry};
use crate::sandboxes::{CONTAINER, DEFAULT_DISK_MB, Network, NewSandbox, Owner, StartFrom, VM};
use crate::templates::store::{self as templates, Template};

/// Of a build's sandbox.
pub(super) const VCPUS: u32 = 2;
pub(super) const MEMORY_MB: u64 = 1024;
const DISK_MB: u64 = 10_240;

/// What a build stands on, and what programs in it get.
#[derive(Clone)]
pub(super) struct Ground {
    pub template: Template,
    pub chain: Vec<LayerRow>,
    pub user: String,
    pub workdir: String,
    pub env: BTreeMap<String, String>,
    pub key: String,
    /// `container` or `vm`: what its steps run in. Layers of one are nothing to the other.
    pub driver: String,
}

impl Ground {
    /// What a sandbox of a build is like: its processors, its memory and its disk in MB.
    pub fn sandbox(&self, build: &BuildId, (vcpus, memory_mb, disk_mb): (Option<u32>, Option<u64>, u64)) -> NewSandbox {
        NewSandbox {
            template: self.template.name.clone(),
            vcpus,
            memory_mb,
            disk_mb: Some(disk_mb),
            // A build that is killed with everything around it leaves a sandbox that ends by itself.
            timeout_sec: 7200,
            lifetime_sec: None,
            on_timeout: OnTimeout::Kill,
            auto_resume: false,
            on_reboot: OnReboot::Stop,
            driver: Some(self.driver.clone()),
            // Of a snapshot of a machine, what ran in it is nothing to a build.
            start_from: (self.driver == VM).then_some(StartFrom::Files),
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            volumes: Vec::new(),
            metadata: BTreeMap::new(),
            network: Network::default(),
            keep_if_abandoned: true,
            purpose: format!("{PURPOSE} {build}"),
            times: Default::default(),
        }
    }

    /// Whether its layers are the disk of a machine.
    pub fn is_disk(&self) -> bool {
        self.driver == VM && !self.chain.is_empty()
    }

    /// How large the disk of a build's sandbox is. That of a machine becomes the disk of those that are made of it, so it
    /// is as large as theirs; and one that began as another's is as large as that.
    pub fn disk_mb(&self, build: &BuildRow) -> u64 {
        if self.driver != VM {
            return DISK_MB;
        }
        let inherited = self.template.disk_mb.filter(|_| !self.chain.is_empty());
        inherited.or(build.disk_mb).and_then(|size| u64::try_from(size).ok()).unwrap_or(DEFAULT_DISK_MB)
    }
}

impl Builds {
    pub(super) async fn base(
        &self,
        owner: &Owner,
        recipe: &Recipe,
        login: Option<&Login>,
        log: &Log,
    ) -> Result<Ground, Ended> {
        match &recipe.from {
            From::Template(name) => {
                log.info(&format!("from the template {name}"));
                let (template, holder) = self.resolve(owner, name).await?;
                let chain = self.layers.chain(&holder).await?;
                layers::allowed(&chain, &owner.team, owner.team_is_byoc)?;
                let ids: Vec<_> = chain.iter().map(|layer| layer.id.to_string()).collect();
                let key = first_key(&owner.team, &template.digest, &ids);
                let (user, workdir) = (template.default_user.clone(), template.default_workdir.clone());
                let driver = self.driver(owner, &template, recipe).await?;
                Ok(Ground { chain, user, workdir, env: template.env.0.clone(), key, driver, template })
            }
            from @ (From::Image(_) | From::Pushed { .. }) => {
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
                    driver: ANY_DRIVER.to_owned(),
                    ..template
                };
                Ok(Ground {
                    chain: Vec::new(),
                    user: pulled.config.user,
                    workdir: pulled.config.workdir,
                    env: pulled.config.env,
                    key: first_key(&owner.team, &pulled.digest, &[]),
                    driver: self.driver(owner, &template, recipe).await?,
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

    /// What the steps of a build from this template run in: what it belongs to, or what there is. Machines can stand on what
    /// containers have made, once it is stored; not the other way.
    async fn driver(&self, owner: &Owner, template: &Template, recipe: &Recipe) -> Result<String, Ended> {
        match (template.driver.as_str(), recipe.driver.as_deref()) {
            (VM, Some(CONTAINER)) => Err(failed(format!("the template '{}' is for virtual machines", template.name))),
            (VM, _) => Ok(VM.to_owned()),
            (CONTAINER, _) | (_, Some(CONTAINER)) => Ok(CONTAINER.to_owned()),
            _ => Ok(self.sandboxes.driver_for_builds(owner).await?.to_owned()),
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
    pub(super) async fn can_go_on_from(&self, owner: &Owner, ground: &Ground, disk_mb: u64) -> bool {
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
}

/// Stands for what a build begins with. Built steps are a team's own: what it copies in, and what a name leads to, only
/// it can know.
fn first_key(team: &TeamId, digest: &str, layers: &[String]) -> String {
    key(&[team.as_str(), digest, &layers.join(" ")])
}

/// Stands for everything up to and with this step.
pub(super) fn next_key(ground: &Ground, step: &Step) -> String {
    let step = serde_json::to_string(step).unwrap_or_default();
    let env = serde_json::to_string(&ground.env).unwrap_or_default();
    key(&[&ground.key, &step, &env, &ground.user, &ground.workdir])
}

pub(super) fn key(parts: &[&str]) -> String {
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
