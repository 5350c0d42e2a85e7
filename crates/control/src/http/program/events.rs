//! What the program does, as its sandbox tells: from its start, or from an attachment to one that runs.

use atoll_model::ErrorCode;
use atoll_rpc::process::__buffa::oneof::process_event::Event;
use atoll_rpc::process::__buffa::oneof::process_selector::Selector;
use atoll_rpc::process::{self, PTY, ProcessEvent, ProcessSelector, StartRequest};

use super::Dialect;
use super::wanted::Wanted;
use crate::fleet::{GuestAnswer, said};
use crate::http::convert::Refusal;
use crate::http::error::{ApiError, ApiResult};
use crate::http::guest::{Guest, call, stream};

/// The program's events behind its start event, and its pid.
pub(super) async fn started(guest: &Guest, wanted: &Wanted, dialect: Dialect) -> ApiResult<(Events, u32)> {
    let mut events = open(guest, wanted, dialect).await?;
    match events.next().await? {
        Some(Event::Start(start)) => Ok((events, start.pid)),
        _ => Err(ApiError::agent("its stream did not begin with a start event")),
    }
}

/// The program's events, from a start or from an attachment: the same on the wire.
pub(super) enum Events {
    Started(
        atoll_rpc::connectrpc::client::ServerStream<GuestAnswer, process::__buffa::view::StartResponseView<'static>>,
    ),
    Attached(
        atoll_rpc::connectrpc::client::ServerStream<GuestAnswer, process::__buffa::view::ConnectResponseView<'static>>,
    ),
}

impl Events {
    pub(super) async fn next(&mut self) -> ApiResult<Option<Event>> {
        loop {
            let event: Option<ProcessEvent> = match self {
                Self::Started(stream) => match stream.message().await.map_err(stream_broke)? {
                    Some(message) => message.to_owned_message().event.into_option(),
                    None => return Ok(None),
                },
                Self::Attached(stream) => match stream.message().await.map_err(stream_broke)? {
                    Some(message) => message.to_owned_message().event.into_option(),
                    None => return Ok(None),
                },
            };
            match event.and_then(|event| event.event) {
                None | Some(Event::Keepalive(_)) => {}
                Some(event) => return Ok(Some(event)),
            }
        }
    }
}

fn stream_broke(error: atoll_rpc::connectrpc::ConnectError) -> ApiError {
    use atoll_rpc::connectrpc::ErrorCode as RpcCode;
    let (code, field) = match error.code {
        RpcCode::InvalidArgument => (ErrorCode::InvalidRequest, Some("cmd")),
        RpcCode::Unauthenticated => (ErrorCode::InvalidRequest, Some("user")),
        RpcCode::NotFound => (ErrorCode::NotFound, Some("tag")),
        RpcCode::AlreadyExists | RpcCode::FailedPrecondition => (ErrorCode::Conflict, None),
        RpcCode::ResourceExhausted => (ErrorCode::QuotaExceeded, None),
        _ => (ErrorCode::HostUnavailable, None),
    };
    let message = match code {
        ErrorCode::HostUnavailable => "the connection to the program broke: the sandbox may be gone".to_owned(),
        _ => error.message.as_deref().map_or_else(|| error.code.as_str().to_owned(), said),
    };
    let refusal = Refusal::of(&error);
    let mut answer = ApiError::new(code, message).with_source(said(&error.to_string()));
    answer.field = field.map(Into::into);
    match refusal {
        Some(refusal) => refusal.told_in(answer),
        None => answer,
    }
}

/// Starts the program, or attaches to the one that runs under the tag: always without a command, and for terminals
/// whenever there is one.
async fn open(guest: &Guest, wanted: &Wanted, dialect: Dialect) -> ApiResult<Events> {
    if let Some(tag) = &wanted.tag
        && (wanted.config.is_none() || (dialect == Dialect::Terminal && is_running(guest, tag).await?))
    {
        let request = process::ConnectRequest { process: selector(Selector::Tag(tag.clone())), ..Default::default() };
        let attached = guest.processes().connect_with_options(request, stream(wanted.user.as_deref())).await;
        let events =
            Events::Attached(attached.map_err(|error| guest.error("attach to the program", Some("tag"), error))?);
        return Ok(events);
    }
    let request = StartRequest {
        process: wanted.config.clone().unwrap_or_default().into(),
        pty: wanted.size.map(pty_size).unwrap_or_default(),
        tag: wanted.tag.clone(),
        stdin: Some(wanted.stdin),
        ..Default::default()
    };
    let started = guest.processes().start_with_options(request, stream(wanted.user.as_deref())).await;
    Ok(Events::Started(started.map_err(|error| guest.error("start the program", Some("cmd"), error))?))
}

async fn is_running(guest: &Guest, tag: &str) -> ApiResult<bool> {
    let listed = guest.processes().list_with_options(process::ListRequest::default(), call(None)).await;
    let listed = listed.map_err(|error| guest.error("list its processes", None, error))?.into_owned();
    Ok(listed.processes.iter().any(|process| process.tag.as_deref() == Some(tag)))
}

pub(super) fn selector<P: atoll_rpc::buffa::ProtoBox<ProcessSelector>>(
    selector: Selector,
) -> atoll_rpc::buffa::MessageField<ProcessSelector, P> {
    atoll_rpc::buffa::MessageField::some(ProcessSelector { selector: Some(selector), ..Default::default() })
}

pub(super) fn pty_size<P: atoll_rpc::buffa::ProtoBox<PTY>>(
    (cols, rows): (u16, u16),
) -> atoll_rpc::buffa::MessageField<PTY, P> {
    let size = process::pty::Size { cols: cols.into(), rows: rows.into(), ..Default::default() };
    atoll_rpc::buffa::MessageField::some(PTY { size: size.into(), ..Default::default() })
}
