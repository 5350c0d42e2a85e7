//! What happens to layers behind everybody's back: packed, fetched into the object store, squashed.

use std::time::Duration;

use atoll_image::packed;
use atoll_model::{HostId, LayerId};
use atoll_rpc::atoll::host::v1 as wire;
use atoll_rpc::connectrpc::client::CallOptions;
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http_body_util::{BodyExt, Empty};

use super::{LayerError, LayerRow, Layers, SQUASH_AT, store, to_wire};
use crate::db::Text;
use crate::fleet::FleetError;
use crate::objects::Form;

/// Packing reads and writes all bytes of a layer.
const PACK_DEADLINE: Duration = Duration::from_secs(900);
/// Layers that are stored in one round.
const BATCH: i64 = 32;
/// How long a fetch may stand still.
const STALL: Duration = Duration::from_secs(60);

impl Layers {
    /// Stores what snapshots and templates stand on and only one host has. What fails is logged, and tried again next
    /// time. How many were stored.
    ///
    /// # Errors
    /// The database's.
    pub async fn store_due(&self) -> Result<usize, LayerError> {
        let mut stored = 0;
        for layer in store::unstored(&self.db, BATCH).await? {
            match self.store_one(&layer).await {
                Ok(()) => stored += 1,
                Err(error) => tracing::warn!(layer = %layer.id.0, %error, "a layer could not be stored yet"),
            }
        }
        Ok(stored)
    }

    async fn store_one(&self, layer: &LayerRow) -> Result<(), LayerError> {
        let host = layer.host_id.as_ref().map(|host| &host.0).ok_or(LayerError::Elsewhere)?;
        let (digest, size_bytes) = match &layer.digest {
            Some(digest) => (digest.clone(), layer.size_bytes),
            None => {
                let (digest, size_bytes) = self.pack(host, std::slice::from_ref(layer)).await?;
                store::set_digest(&self.db, &layer.id.0, &digest, size_bytes).await?;
                (digest, size_bytes)
            }
        };
        self.fetch(host, &digest, size_bytes).await?;
        store::set_stored(&self.db, &layer.id.0).await?;
        Ok(())
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
        if !answer.status().is_success() {
            return Err(LayerError::Elsewhere);
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
            }
        }
        draft.finish().await?;
        Ok(())
    }

    /// Packs a holder's layers into one, if there are many, for whoever comes next.
    pub async fn squash_if_tall(&self, holder: &str) -> Result<(), LayerError> {
        let chain = self.chain(holder).await?;
        if chain.len() < SQUASH_AT {
            return Ok(());
        }
        self.squash(holder, &chain).await.map(|_| ())
    }

    /// Packs these layers into one on their host.
    pub async fn squash(&self, holder: &str, chain: &[LayerRow]) -> Result<LayerRow, LayerError> {
        let host = chain.iter().find_map(|layer| layer.host_id.as_ref()).ok_or(LayerError::Elsewhere)?.0.clone();
        let (digest, size_bytes) = self.pack(&host, chain).await?;
        let whole = LayerRow {
            id: Text(LayerId::new()),
            team_id: chain[0].team_id.clone(),
            host_id: Some(Text(host)),
            byoc: chain.iter().any(|layer| layer.byoc),
            digest: Some(digest),
            stored: false,
            size_bytes,
            memory: false,
            created_at: self.clock.now(),
        };
        let mut tx = self.db.begin().await?;
        store::insert(&mut tx, &whole).await?;
        store::refer_squashed(&mut tx, holder, &whole.id.0).await?;
        tx.commit().await?;
        Ok(whole)
    }
}
