//! The RPCs of `filesystem.Filesystem`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_rpc::filesystem::watch_dir_response::{KeepAlive, StartEvent};
use atoll_rpc::filesystem::{
    CreateWatcherRequest, CreateWatcherResponse, Filesystem, FilesystemEvent, GetWatcherEventsRequest,
    GetWatcherEventsResponse, ListDirRequest, ListDirResponse, MakeDirRequest, MakeDirResponse, MoveRequest,
    MoveResponse, RemoveRequest, RemoveResponse, RemoveWatcherRequest, RemoveWatcherResponse, StatRequest,
    StatResponse, WatchDirRequest, WatchDirResponse,
};
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures::stream;

use super::tree::{self, TreeError};
use super::watch::{Hub, Streamed, WatchError, Wish};
use crate::auth;
use crate::guest::Guest;
use crate::paths;
use crate::rights;
use crate::users::Account;

pub struct FilesystemService(pub Arc<Guest>);

impl From<TreeError> for ConnectError {
    fn from(error: TreeError) -> Self {
        let message = error.to_string();
        match error {
            TreeError::Missing(_) => Self::not_found(message),
            TreeError::Exists(_) => Self::already_exists(message),
            TreeError::NotDirectory(_) | TreeError::ExistsAsFile(_) | TreeError::Root => {
                Self::invalid_argument(message)
            }
            TreeError::Loop(_) | TreeError::OtherFilesystem { .. } | TreeError::InTheWay(..) => {
                Self::failed_precondition(message)
            }
            TreeError::Refused { .. } => Self::permission_denied(message),
            TreeError::BadName(..) => Self::invalid_argument(message),
            TreeError::TooMany | TreeError::NoSpace(_) => Self::resource_exhausted(message),
            TreeError::Io { .. } | TreeError::Abandoned(_) => Self::internal(message),
        }
    }
}

impl From<WatchError> for ConnectError {
    fn from(error: WatchError) -> Self {
        let message = error.to_string();
        match error {
            WatchError::Missing(_) | WatchError::UnknownWatcher(_) => Self::not_found(message),
            WatchError::NotDirectory(_) | WatchError::Network(_) => Self::invalid_argument(message),
            WatchError::Loop(_) => Self::failed_precondition(message),
            WatchError::TooManyWatchers | WatchError::TooManyDirectories | WatchError::Lost => {
                Self::resource_exhausted(message)
            }
            WatchError::Io { .. } | WatchError::Abandoned(_) => Self::internal(message),
        }
    }
}

impl FilesystemService {
    fn account(&self, context: &RequestContext) -> Result<Account, ConnectError> {
        auth::rpc_account(&self.0, context)
    }

    fn resolve(&self, path: &str, account: &Account) -> Result<String, ConnectError> {
        paths::resolve(path, account, &self.0.settings().default_workdir)
            .map_err(|error| ConnectError::invalid_argument(error.to_string()))
    }
}

impl Filesystem for FilesystemService {
    async fn stat(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, StatRequest>,
    ) -> ServiceResult<StatResponse> {
        let path = self.resolve(request.path, &self.account(&context)?)?;
        let entry = crate::blocking(move || tree::stat(&path)).await?;
        Response::ok(StatResponse { entry: entry.into(), ..Default::default() })
    }

    async fn make_dir(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, MakeDirRequest>,
    ) -> ServiceResult<MakeDirResponse> {
        let account = self.account(&context)?;
        let path = self.resolve(request.path, &account)?;
        let rights = auth::rpc_rights(&context, &account).cloned();
        let work = move || rights::with(rights.as_ref(), || tree::make_directory(&path, &account));
        let entry = crate::blocking(work).await?;
        Response::ok(MakeDirResponse { entry: entry.into(), ..Default::default() })
    }

    async fn r#move(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, MoveRequest>,
    ) -> ServiceResult<MoveResponse> {
        let account = self.account(&context)?;
        let from = self.resolve(request.source, &account)?;
        let to = self.resolve(request.destination, &account)?;
        let rights = auth::rpc_rights(&context, &account).cloned();
        let work = move || rights::with(rights.as_ref(), || tree::rename(&from, &to, &account));
        let entry = crate::blocking(work).await?;
        Response::ok(MoveResponse { entry: entry.into(), ..Default::default() })
    }

    async fn list_dir(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, ListDirRequest>,
    ) -> ServiceResult<ListDirResponse> {
        let account = self.account(&context)?;
        let path = self.resolve(request.path, &account)?;
        let depth = request.depth.max(1);
        let rights = auth::rpc_rights(&context, &account).cloned();
        let entries = crate::blocking(move || rights::with(rights.as_ref(), || tree::list(&path, depth))).await?;
        Response::ok(ListDirResponse { entries, ..Default::default() })
    }

    async fn remove(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, RemoveRequest>,
    ) -> ServiceResult<RemoveResponse> {
        let account = self.account(&context)?;
        let path = self.resolve(request.path, &account)?;
        let rights = auth::rpc_rights(&context, &account).cloned();
        crate::blocking(move || rights::with(rights.as_ref(), || tree::remove(&path))).await?;
        Response::ok(RemoveResponse::default())
    }

    async fn watch_dir(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<WatchDirResponse>> {
        let path = self.resolve(request.path, &self.account(&context)?)?;
        let wish = Wish {
            path,
            recursive: request.recursive,
            include_entry: request.include_entry,
            allow_network: request.allow_network_mounts,
        };
        let events = Hub::stream(&self.0.watches, wish).await?;
        Response::ok(watch_stream(events, auth::keepalive(&context), context.deadline()))
    }

    async fn create_watcher(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, CreateWatcherRequest>,
    ) -> ServiceResult<CreateWatcherResponse> {
        let path = self.resolve(request.path, &self.account(&context)?)?;
        let wish = Wish {
            path,
            recursive: request.recursive,
            include_entry: request.include_entry,
            allow_network: request.allow_network_mounts,
        };
        let watcher_id = Hub::buffer(&self.0.watches, wish).await?;
        Response::ok(CreateWatcherResponse { watcher_id, ..Default::default() })
    }

    async fn get_watcher_events(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, GetWatcherEventsRequest>,
    ) -> ServiceResult<GetWatcherEventsResponse> {
        let events = self.0.watches.take_buffered(request.watcher_id)?;
        Response::ok(GetWatcherEventsResponse { events, ..Default::default() })
    }

    async fn remove_watcher(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, RemoveWatcherRequest>,
    ) -> ServiceResult<RemoveWatcherResponse> {
        self.0.watches.remove_buffered(request.watcher_id)?;
        Response::ok(RemoveWatcherResponse::default())
    }
}

/// `start`, then events, and a keepalive after every silence. The watch ends when the stream is dropped, or at the time
/// that the caller has set.
fn watch_stream(events: Streamed, keepalive: Duration, deadline: Option<Instant>) -> ServiceStream<WatchDirResponse> {
    let message = |event| WatchDirResponse { event: Some(event), ..Default::default() };
    Box::pin(stream::unfold((Some(events), true), move |(events, first)| async move {
        let mut events = events?;
        if first {
            return Some((Ok(message(StartEvent::default().into())), (Some(events), false)));
        }
        tokio::select! {
            biased;
            event = events.next() => match event {
                Ok(event) => Some((Ok(message(FilesystemEvent::into(event))), (Some(events), false))),
                Err(error) => Some((Err(error.into()), (None, false))),
            },
            () = crate::awake::sleep_until_some(deadline) => {
                Some((Err(ConnectError::deadline_exceeded("the time given to the watch is over")), (None, false)))
            }
            () = tokio::time::sleep(keepalive) => {
                Some((Ok(message(KeepAlive::default().into())), (Some(events), false)))
            }
        }
    }))
}
