//! Templates that are machines at work: one is started at the end of a build, and what it has in memory when it is ready is
//! what sandboxes go on with. Where that can't be (another size, a host whose machines run on something else), they begin with
//! the files, and run the start command.

use std::time::Duration;

use sqlx::types::Json;

use super::Builds;
use super::ground::Ground;
use super::inside::Inside;
use super::log::Log;
use super::run::{Ended, READY, failed};
use super::store::BuildRow;
use crate::layers::{LayerRow, Wanted};
use crate::sandboxes::{Owner, SandboxRecord, VM};
use crate::templates::store::Template;

/// How long a start command without a ready command gets to be ready.
const SETTLE: Duration = Duration::from_secs(10);

impl Builds {
    /// Puts the memory of a machine of the product on top of what it stands on. How large its disk is.
    pub(super) async fn keep_memory(
        &self,
        owner: &Owner,
        build: &BuildRow,
        ground: &mut Ground,
        log: &Log,
    ) -> Result<u64, Ended> {
        log.info("starting a machine, whose memory sandboxes go on with");
        VM.clone_into(&mut ground.driver);
        let disk_mb = ground.disk_mb(build);
        let recipe = &build.spec.0;
        let template = Template {
            driver: VM.to_owned(),
            default_user: ground.user.clone(),
            default_workdir: ground.workdir.clone(),
            env: Json(ground.env.clone()),
            start_cmd: recipe.start_cmd.clone().or_else(|| ground.template.start_cmd.clone()),
            // It is asked below, for as long as a build may take.
            ready_cmd: None,
            ..ground.template.clone()
        };
        let size = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
        let vcpus = size(build.vcpus).and_then(|value| u32::try_from(value).ok());
        let new = ground.sandbox(&build.id.0, (vcpus, size(build.memory_mb), disk_mb));
        let ready = recipe.ready_cmd.clone().or_else(|| ground.template.ready_cmd.clone());
        let starts = template.start_cmd.is_some();
        let sandbox = self.sandboxes.create_from(owner, new, template, ground.chain.clone()).await?;
        let kept = self.when_ready(owner, &sandbox, ground, (starts, ready.as_deref()), log).await;
        self.sandboxes.destroy_now(&sandbox.id.0, "build_over").await;
        ground.chain = kept?;
        Ok(disk_mb)
    }

    async fn when_ready(
        &self,
        owner: &Owner,
        sandbox: &SandboxRecord,
        ground: &Ground,
        (starts, ready): (bool, Option<&str>),
        log: &Log,
    ) -> Result<Vec<LayerRow>, Ended> {
        let host = sandbox.host().cloned().ok_or_else(|| failed("its sandbox has no host"))?;
        let _active = self.sandboxes.activity().open(&sandbox.id);
        if let Some(command) = ready {
            log.info("waiting until it is ready");
            let inside = Inside {
                fleet: self.sandboxes.fleet().clone(),
                host: host.clone(),
                sandbox: sandbox.id.0.clone(),
                log: log.clone(),
                user: ground.user.clone(),
                workdir: ground.workdir.clone(),
                env: ground.env.clone().into_iter().collect(),
            };
            inside.wait_ready(command, READY).await.map_err(failed)?;
        } else if starts {
            log.info(&format!("giving its start command {} s: there is no ready command", SETTLE.as_secs()));
            tokio::time::sleep(SETTLE).await;
        }
        let wanted = Wanted { memory: true, ..Wanted::default() };
        let made = self.layers.make(&owner.team, owner.team_is_byoc, &sandbox.id, &host, wanted).await?;
        if !made.layer.memory {
            return Err(failed("its host has kept no memory of the machine"));
        }
        log.info("its memory is kept");
        Ok(self.layers.over(&sandbox.id, made).await?)
    }
}
