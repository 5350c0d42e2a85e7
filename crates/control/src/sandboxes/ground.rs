//! What a sandbox is made of, and what a host is told of it.

use std::collections::BTreeMap;

use atoll_rpc::atoll::host::v1 as wire;

use super::{Filling, SandboxRecord};
use crate::layers::{self, LayerRow};
use crate::templates::store::Template;
use crate::volumes::{self, Mount};

const MIB: u64 = 1 << 20;

/// What a sandbox is made of.
pub(super) struct Ground<'a> {
    pub template: &'a Template,
    pub layers: &'a [LayerRow],
    pub mounts: &'a [Mount],
    pub filling: &'a Filling,
}

/// What a host is told to make.
pub(super) fn spec(record: &SandboxRecord, env: BTreeMap<String, String>, ground: &Ground<'_>) -> wire::SandboxSpec {
    let template = ground.template;
    let env = template.env.0.clone().into_iter().chain(env);
    let size = |value: i64| u64::try_from(value).unwrap_or(0);
    wire::SandboxSpec {
        template: wire::Image {
            digest: template.digest.clone(),
            size_bytes: size(template.size_bytes),
            name: template.name.clone(),
            ..Default::default()
        }
        .into(),
        driver: record.driver.clone(),
        vcpus: u32::try_from(record.vcpus).unwrap_or(1),
        memory_bytes: size(record.memory_mb).saturating_mul(MIB),
        disk_bytes: size(record.disk_mb).saturating_mul(MIB),
        env: env.collect(),
        hostname: record.id.dns_label(),
        default_user: template.default_user.clone(),
        default_workdir: template.default_workdir.clone(),
        access_token: record.access_token.clone(),
        on_reboot: record.on_reboot.0.0.as_str().to_owned(),
        network: record.network.to_wire(ground.filling, &record.id).into(),
        network_generation: record.host_network_generation(),
        layers: layers::to_wire(ground.layers),
        volumes: volumes::to_wire(ground.mounts),
        startup: template
            .start_cmd
            .clone()
            .map(|cmd| wire::Startup {
                cmd,
                user: template.default_user.clone(),
                cwd: template.default_workdir.clone(),
                ..Default::default()
            })
            .into(),
        ..Default::default()
    }
}
