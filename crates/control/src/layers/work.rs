//! What happens to layers behind everybody's back: packed, fetched into the object store, squashed.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_image::packed;
use atoll_model::{HostId, LayerId};
use atoll_rpc::atoll::host::v1 as wire;
use atoll_rpc::connectrpc::ErrorCode as RpcCode;
use atoll_rpc::connectrpc::client::CallOptions;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http_body_util::{BodyExt, Empty};

use super::{LayerError, LayerRow, Layers, SQUASH_AT, pinned, store, to_wire};
use crate::db::{DbError, Text};
use crate::fleet::FleetError;
use crate::objects::Form;

/// Packing reads and writes all bytes of a layer.
pub(super) const PACK_DEADLINE: Duration = Duration::from_secs(900);
/// Layers that are stored in one round, and of one host.
const BATCH: i64 = 256;
const OF_A_HOST: i64 = 8;
/// Hosts that are worked with at once.
const HOSTS_AT_ONCE: usize = 4;
/// How long a fetch may stand still.
const STALL: Duration = Duration::from_secs(60);
/// After the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(15);
/// Between attempts of what always fails: what forbids it may change, a limit for instance.
const LAST_PAUSE: Duration = Duration::from_secs(24 * 3600);

impl Layers {
    /// Stores what snapshots and templates stand on and only one host has. What fails is tried again later and later, and
    /// its reason noted; it holds up nobody else. How many were stored.
    ///
    /// # Errors
    /// The database's.
    pub async fn store_due(&self) -> Result<usize, LayerError> {
        let due = store::unstored(&self.db, self.clock.now(), OF_A_HOST, BATCH).await?;
        let mut by_host: BTreeMap<String, Vec<LayerRow>> = BTreeMap::new();
        for layer in due {
            let host = layer.host_id.as_ref().map(|host| host.to_string()).unwrap_or_default();
            by_host.entry(host).or_default().push(layer);
        }
        let rounds = by_host.into_values().map(|layers| self.store_all(layers).boxed());
        let rounds: Vec<_> = futures::stream::iter(rounds).buffer_unordered(HOSTS_AT_ONCE).collect().await;
        let mut stored = 0;
        for round in rounds {
            stored += round?;
        }
        Ok(stored)
    }

    async fn store_all(&self, layers: Vec<LayerRow>) -> Result<usize, LayerError> {
        let mut stored = 0;
        for layer in layers {
            match self.store(&layer).await {
                Ok(Some(_)) => stored += 1,
                Ok(None) => {}
                Err(LayerError::Db(error)) => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(layer = %layer.id.0, %error, "a layer could not be stored yet");
                    let again = self.clock.now() + pause_after(layer.attempts, &error);
                    store::set_problem(&self.db, &layer.id.0, &problem(&error), again).await?;
                }
            }
        }
        Ok(stored)
    }

    /// Has its host pack it, and fetches that into the object store. How it is then; none when the layer is gone.
    ///
    /// # Errors
    /// [`LayerError`].
    pub async fn store(&self, layer: &LayerRow) -> Result<Option<LayerRow>, LayerError> {
        let host = layer.host_id.as_ref().map(|host| &host.0).ok_or(LayerError::Elsewhere)?;
        if let Some(digest) = &layer.digest {
            match self.fetch(host, digest, layer.size_bytes).await {
                // It was packed once, and its image is gone there: it is packed again.
                Err(LayerError::Elsewhere) => store::forget_digest(&self.db, &layer.id.0).await?,
                other => {
                    other?;
                    store::set_stored(&self.db, &layer.id.0).await?;
                    return Ok(Some(LayerRow { stored: true, ..layer.clone() }));
                }
            }
        }
        let (digest, size_bytes) = self.pack(host, std::slice::from_ref(layer)).await?;
        crate::failpoint!("control::store::after_pack");
        if !store::set_digest(&self.db, &layer.id.0, &digest, size_bytes).await? {
            self.disown(host, &digest).await?;
            return Ok(None);
        }
        crate::failpoint!("control::store::after_digest");
        self.fetch(host, &digest, size_bytes).await?;
        crate::failpoint!("control::store::after_fetch");
        store::set_stored(&self.db, &layer.id.0).await?;
        Ok(Some(LayerRow { digest: Some(digest), size_bytes, stored: true, ..layer.clone() }))
    }

    /// Nobody wants what a host has packed any more: it is to delete it.
    async fn disown(&self, host: &HostId, digest: &str) -> Result<(), LayerError> {
        let mut tx = self.db.begin().await?;
        if !store::is_named(&mut tx, digest).await? {
            store::note_deletion(&mut tx, host, digest, self.clock.now()).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Has a host pack layers into one image.
    async fn pack(&self, host: &HostId, layers: &[LayerRow]) -> Result<(String, i64), LayerError> {
        let request = wire::PackLayersRequest { layers: to_wire(layers), ..Default::default() };
        let options = CallOptions::default().with_timeout(PACK_DEADLINE);
        let answer = self.fleet.host_client(host).pack_layers_with_options(request, options).await;
        let answer = answer.map_err(|error| FleetError::from_rpc(host, "pack layers", error))?.into_owned();
        Ok((answer.digest, i64::try_from(answer.size_bytes).unwrap_or(i64::MAX)))
    }

    /// Gets an image of so many bytes that a host has packed into the object store, checked on the way.
    async fn fetch(&self, host: &HostId, digest: &str, size_bytes: i64) -> Result<(), LayerError> {
        if self.objects.has(digest).await? {
            return Ok(());
        }
        let request = http::Request::get(format!("/images/{digest}")).header(ACCEPT_ENCODING, packed::ENCODING);
        let request = request.body(Empty::<Bytes>::new());
        let request = request.map_err(|error| crate::objects::ObjectError::other("asking for an image", error))?;
        let answer = self.fleet.host_http(host, request).await?;
        match answer.status() {
            status if status.is_success() => {}
            http::StatusCode::NOT_FOUND => return Err(LayerError::Elsewhere),
            status => {
                let error = std::io::Error::other(format!("its host answered {status}"));
                return Err(crate::objects::ObjectError::other("asking for an image", error).into());
            }
        }
        let mut draft = self.objects.draft(digest, u64::try_from(size_bytes).unwrap_or(0))?;
        let encoding = answer.headers().get(CONTENT_ENCODING);
        draft.comes(if encoding.is_some_and(|it| it == packed::ENCODING) { Form::Packed } else { Form::Raw })?;
        let mut body = answer.into_body();
        loop {
            let frame = tokio::time::timeout(STALL, body.frame()).await;
            let frame = frame.map_err(|error| crate::objects::ObjectError::other("fetching an image", error))?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| crate::objects::ObjectError::other("fetching an image", error))?;
            if let Ok(chunk) = frame.into_data() {
                draft.write(chunk).await?;
                crate::failpoint!("control::store::halfway");
            }
        }
        draft.finish().await?;
        Ok(())
    }

    /// Packs a holder's layers into one, if there are many, for whoever comes next; on the holder's host, if it has one.
    pub async fn squash_if_tall(&self, holder: &str, host: Option<&HostId>) -> Result<(), LayerError> {
        let chain = self.chain(holder).await?;
        // The disk of a machine goes into no image.
        if chain.len() < SQUASH_AT || chain.iter().any(|layer| layer.vm_version.is_some()) {
            return Ok(());
        }
        self.squash(holder, &chain, host).await.map(|_| ())
    }

    /// Packs a holder's layers into one, for whoever comes next too if they still are its layers then.
    pub async fn squash(
        &self,
        holder: &str,
        chain: &[LayerRow],
        host: Option<&HostId>,
    ) -> Result<LayerRow, LayerError> {
        let whole = self.pack_stack(chain, host).await?;
        let these: Vec<LayerId> = chain.iter().map(|layer| layer.id.0.clone()).collect();
        let mut tx = self.db.begin().await?;
        if !store::refer_squashed(&mut tx, holder, &these, &whole.id.0).await? {
            tracing::debug!(holder, "a holder stands on other layers than those that were packed");
        }
        tx.commit().await?;
        Ok(whole)
    }

    /// Packs these layers into one on the host that alone has some of them, else on this one, else on one that made some.
    /// For now the result lies there alone: a sandbox's stack is packed where the sandbox is.
    ///
    /// They stay while that takes, for it stands on them: its row is there before the host is asked, and goes with what
    /// it stands on if nobody ever stands on it.
    pub async fn pack_stack(&self, chain: &[LayerRow], host: Option<&HostId>) -> Result<LayerRow, LayerError> {
        let top = chain.first().ok_or(LayerError::Elsewhere)?;
        let host = match pinned(chain)? {
            Some(host) => host,
            None => {
                let made_some = || chain.iter().find_map(|layer| layer.host_id.as_ref()).map(|host| &host.0);
                host.or_else(made_some).ok_or(LayerError::Elsewhere)?.clone()
            }
        };
        let mut whole = LayerRow {
            id: Text(LayerId::new()),
            team_id: top.team_id.clone(),
            host_id: Some(Text(host.clone())),
            byoc: chain.iter().any(|layer| layer.byoc),
            digest: None,
            stored: false,
            size_bytes: 0,
            memory: false,
            vm_version: None,
            lost: false,
            attempts: 0,
            problem: None,
            created_at: self.clock.now(),
        };
        let mut tx = self.db.begin().await?;
        store::insert(&mut tx, &whole).await?;
        store::stand(&mut tx, whole.id.as_str(), chain).await.map_err(gone)?;
        tx.commit().await?;
        crate::failpoint!("control::squash::before_pack", Err(LayerError::Elsewhere));
        let (digest, size_bytes) = self.pack(&host, chain).await?;
        crate::failpoint!("control::squash::after_pack", Err(LayerError::Elsewhere));
        if !store::set_digest(&self.db, &whole.id.0, &digest, size_bytes).await? {
            self.disown(&host, &digest).await?;
            return Err(LayerError::Gone);
        }
        let mut tx = self.db.begin().await?;
        store::release(&mut tx, whole.id.as_str()).await?;
        tx.commit().await?;
        (whole.digest, whole.size_bytes) = (Some(digest), size_bytes);
        Ok(whole)
    }
}

/// When what failed is tried again.
/// Whether its host has said that it can't be packed, not that it couldn't just now.
pub fn never_will(error: &LayerError) -> bool {
    matches!(
        error,
        LayerError::Host(FleetError::Agent {
            code: RpcCode::FailedPrecondition | RpcCode::InvalidArgument | RpcCode::Unimplemented,
            ..
        })
    )
}

fn pause_after(attempts: i64, error: &LayerError) -> Duration {
    if never_will(error) {
        return LAST_PAUSE;
    }
    let doubled = u32::try_from(attempts.clamp(0, 20)).unwrap_or(20);
    FIRST_PAUSE.saturating_mul(1 << doubled).min(LAST_PAUSE)
}

/// For the snapshot's owner: no more than a line.
fn problem(error: &LayerError) -> String {
    let text = match error {
        LayerError::Host(FleetError::Agent { message, .. }) => message.clone(),
        LayerError::Host(_) => "its host can't be reached".to_owned(),
        LayerError::Elsewhere => "its host doesn't have it".to_owned(),
        _ => "the object store could not take it".to_owned(),
    };
    text.chars().take(300).filter(|letter| !letter.is_control()).collect()
}

/// What somebody wants to stand on was taken away at that moment.
pub(super) fn gone(error: DbError) -> LayerError {
    if error.is_foreign_key_violation() { LayerError::Gone } else { error.into() }
}
