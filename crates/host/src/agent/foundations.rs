//! What an agent stands on: the floors below are laid in the order in which they need each other, and what stands is
//! taken down again when a later one can't be laid.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;

use super::control::HttpControl;
use super::drivers;
use super::identity_source::ControlIdentities;
use super::image_source::ControlImages;
use super::machine_specs::memory_bytes;
use super::run::Agent;
use super::trust::Trust;
use crate::driver::{Both, ContainerConfig, ContainerDriver, Driver, sealed_program};
use crate::images::{ImageOptions, Images};
use crate::network::{Identities, Network, NetworkConfig};
use crate::sandboxes::floor::Floor;
use crate::sandboxes::{Keeper, Record, Records, Torn};
use crate::slots::{Slots, SlotsConfig};
use crate::storage::{Pool, PoolOptions};

/// What stands of the floors when building them fails half way.
#[derive(Default)]
pub(super) struct Foundations {
    slots: Option<Arc<Slots>>,
    network: Option<Arc<Network>>,
    pool: Option<Arc<Pool>>,
    driver: Option<Arc<dyn Driver>>,
}

impl Foundations {
    /// In the reverse order. With sandboxes on this host, what they need stays.
    pub(super) async fn take_down(self, has_sandboxes: bool) {
        if let Some(driver) = self.driver {
            driver.shut_down().await;
        }
        if let Some(pool) = self.pool.filter(|_| !has_sandboxes)
            && let Ok(Err(error)) = tokio::task::spawn_blocking(move || pool.close()).await
        {
            tracing::error!(%error, "the storage pool could not be unmounted");
        }
        if let Some(network) = self.network
            && let Err(error) = network.shutdown(has_sandboxes).await
        {
            tracing::error!(%error, "the network could not be brought down");
        }
        if let Some(slots) = self.slots.filter(|_| !has_sandboxes)
            && let Err(error) = slots.release_all()
        {
            tracing::error!(%error, "the claim on the machine's slots could not be given up");
        }
    }
}

/// What sandboxes are made of, and their keeper.
pub(super) struct House {
    pub(super) floor: Arc<Floor>,
    pub(super) keeper: Keeper,
    pub(super) control: Arc<HttpControl>,
    pub(super) records: Vec<Record>,
    pub(super) torn: Vec<Torn>,
}

impl Agent {
    /// The floors below, in the order in which they need each other. With an error come those that stood already.
    pub(super) async fn build(
        &self,
        records: Records,
        found: Vec<Record>,
        torn: Vec<Torn>,
    ) -> Result<House, (anyhow::Error, Foundations)> {
        let mut foundations = Foundations::default();
        match self.lay(&mut foundations, records, found, torn).await {
            Ok(house) => Ok(house),
            Err(error) => Err((error, foundations)),
        }
    }

    async fn lay(
        &self,
        foundations: &mut Foundations,
        records: Records,
        found: Vec<Record>,
        torn: Vec<Torn>,
    ) -> anyhow::Result<House> {
        let stored = self.store.load().context("this host has no credentials")?;
        let trust = Trust::in_ca(&stored.current.credentials.ca)?;
        let control = Arc::new(HttpControl::new(self.endpoint.clone(), &trust, &self.config.version)?);
        let data_dir = self.instance.data_dir().to_owned();
        let egress_allow = self.config.egress_allow.iter().map(|text| text.parse()).collect::<Result<_, _>>();
        let egress_allow = egress_allow.context("reading the networks that sandboxes may reach")?;
        let program = sealed_program(self.config.guest_binary).context("loading the guest agent")?;

        let in_use: Vec<_> = found.iter().filter_map(|record| record.slot).collect();
        let ruled = found.iter().filter_map(|record| Some((record.slot?, record.spec.network_policy())));
        let ruled: Vec<_> = ruled.collect();
        let claims = SlotsConfig { network: self.config.sandbox_network, ..SlotsConfig::default() };
        let slots = Slots::open(&self.instance, claims, &in_use).context("claiming slots")?;
        let slots = foundations.slots.insert(Arc::new(slots)).clone();
        let max_bandwidth = self.config.max_bandwidth;
        let identities = ControlIdentities { control: control.clone(), store: self.store.clone() };
        let identities: Option<Arc<dyn Identities>> = Some(Arc::new(identities));
        let network = NetworkConfig { egress_allow, max_bandwidth, identities, ..NetworkConfig::default() };
        let network = Network::start(&self.instance, network, &slots, &ruled).await.context("starting the network")?;
        let network = foundations.network.insert(Arc::new(network)).clone();
        let options = PoolOptions { size_limit: self.config.pool_bytes, ..PoolOptions::default() };
        let pool_dir = data_dir.clone();
        let pool = tokio::task::spawn_blocking(move || Pool::open(&pool_dir, &options))
            .await
            .context("opening the storage pool")?
            .context("opening the storage pool")?;
        let pool = foundations.pool.insert(Arc::new(pool)).clone();
        let mut options = ImageOptions::default();
        if let Some(bytes) = self.config.image_cache_bytes {
            options.max_fetched_bytes = bytes;
        }
        let images = Images::open(&data_dir, &self.config.cache_dir, options).context("opening the image store")?;
        // With connections of their own: what others of this process wait for must never wait for them.
        let apart = Arc::new(HttpControl::new(self.endpoint.clone(), &trust, &self.config.version)?);
        let source = Arc::new(ControlImages { control: apart, store: self.store.clone() });
        if let Err(error) = images.fetch_lazily(source, PathBuf::from("/proc/self/exe")).await {
            tracing::error!(%error, "images come whole before sandboxes start from them");
        }
        let driver = ContainerDriver::start(ContainerConfig::new(self.instance.id(), program))
            .context("starting the container driver")?;
        let container = Arc::new(driver);
        let container_alone: Arc<dyn Driver> = container.clone();
        foundations.driver = Some(container_alone);
        let machines = drivers::machines(&self.config, &self.instance, &found, &self.drivers).await?;
        let driver: Arc<dyn Driver> = match machines {
            Some(vm) => Arc::new(Both { container, vm: Arc::new(vm) }),
            None => container,
        };
        foundations.driver = Some(driver.clone());
        let drivers = self.drivers.clone();
        let fetch = Arc::new(ControlImages { control: control.clone(), store: self.store.clone() });
        let (images, importing) = (Arc::new(images), Arc::default());
        let floor = Arc::new(Floor { driver, drivers, network, pool, images, slots, fetch, importing });
        let keeper = Keeper::new(&data_dir, records, floor.clone(), self.config.limits.clone(), memory_bytes())
            .context("opening the sandboxes' records")?;
        Ok(House { floor, keeper, control, records: found, torn })
    }
}
