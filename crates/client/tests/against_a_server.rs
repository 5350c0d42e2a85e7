//! The client against a server that does what real ones do on bad days.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atoll_client::model::{ErrorCode, SandboxId};
use atoll_client::{Auth, Client, Endpoint, Error, Event, Input, ListSandboxes, Start};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

/// Serves every connection with `serve`, which gets the number of the connection.
async fn server<F, S>(serve: S) -> (Client, Arc<AtomicUsize>)
where
    F: Future<Output = ()> + Send,
    S: Fn(usize, TcpStream) -> F + Clone + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::parse(&listener.local_addr().unwrap().to_string()).unwrap();
    let client = Client::to(endpoint, Auth::ApiKey("atl_test".into())).unwrap();
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let serve = serve.clone();
            let number = count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move { serve(number, stream).await });
        }
    });
    (client, served)
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn answer(stream: &mut TcpStream, status: &str, body: &str) {
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn what_could_have_taken_effect_is_not_sent_again() {
    let (client, served) = server(|_, mut stream| async move {
        read_head(&mut stream).await;
    })
    .await;
    let error = client.create_sandbox(&Default::default()).await.unwrap_err();
    assert!(matches!(error, Error::Broken { .. }), "{error}");
    assert_eq!(served.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_question_is_asked_again_when_the_server_is_busy() {
    let (client, served) = server(|number, mut stream| async move {
        let head = read_head(&mut stream).await;
        assert!(head.contains("x-api-key: atl_test"), "{head}");
        if number < 2 {
            answer(&mut stream, "503 Service Unavailable", "").await;
        } else {
            answer(&mut stream, "200 OK", r#"{"items":[],"next_cursor":null}"#).await;
        }
    })
    .await;
    assert!(client.list_sandboxes(&ListSandboxes::default()).await.unwrap().items.is_empty());
    assert_eq!(served.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn an_error_of_the_api_comes_with_its_code() {
    let (client, _) = server(|_, mut stream| async move {
        read_head(&mut stream).await;
        let body = r#"{"error":{"code":"quota_exceeded","message":"10 of 10","request_id":"r","used":10}}"#;
        answer(&mut stream, "429 Too Many Requests", body).await;
    })
    .await;
    let error = client.create_sandbox(&Default::default()).await.unwrap_err();
    assert_eq!((error.code(), error.status()), (Some(ErrorCode::QuotaExceeded), Some(429)));
}

#[tokio::test]
async fn a_stream_is_byte_exact_in_both_directions() {
    let (client, _) = server(|_, stream| async move {
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        let Some(Ok(Message::Text(start))) = socket.next().await else { panic!("no start") };
        assert!(start.contains(r#""type":"start""#) && start.contains(r#""cmd":"cat""#), "{start}");
        socket.send(Message::text(r#"{"type":"start","pid":7}"#)).await.unwrap();
        let Some(Ok(Message::Binary(input))) = socket.next().await else { panic!("no input") };
        for stream in [1, 2] {
            let mut frame = vec![stream];
            frame.extend_from_slice(&input);
            socket.send(Message::Binary(frame.into())).await.unwrap();
        }
        socket.send(Message::text(r#"{"type":"news_of_the_future","x":1}"#)).await.unwrap();
        socket.send(Message::text(r#"{"type":"exit","exit_code":143,"signal":"SIGTERM"}"#)).await.unwrap();
    })
    .await;
    let start = Start { cmd: Some("cat".into()), stdin: true, ..Start::default() };
    let mut session = client.exec_stream(&SandboxId::new(), start).await.unwrap();
    let all: Vec<u8> = (0..=255).collect();
    session.send(Input::Bytes(all.clone().into())).await.unwrap();
    assert!(matches!(session.next().await.unwrap(), Some(Event::Started { pid: 7 })));
    let Some(Event::Stdout(bytes)) = session.next().await.unwrap() else { panic!("no stdout") };
    assert_eq!(bytes, all);
    let Some(Event::Stderr(bytes)) = session.next().await.unwrap() else { panic!("no stderr") };
    assert_eq!(bytes, all);
    let Some(Event::Exited { code: 143, signal }) = session.next().await.unwrap() else { panic!("no exit") };
    assert_eq!(signal.as_deref(), Some("SIGTERM"));
    assert!(session.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_an_error_and_not_an_exit() {
    let (client, _) = server(|_, stream| async move {
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        socket.next().await;
    })
    .await;
    let mut session = client.exec_stream(&SandboxId::new(), Start::default()).await.unwrap();
    assert!(matches!(session.next().await, Err(Error::Stream { .. })));
}

#[tokio::test]
async fn a_refused_stream_says_why() {
    let (client, _) = server(|_, mut stream| async move {
        read_head(&mut stream).await;
        let body = r#"{"error":{"code":"not_found","message":"no such sandbox","request_id":"r"}}"#;
        answer(&mut stream, "404 Not Found", body).await;
    })
    .await;
    let Err(error) = client.exec_stream(&SandboxId::new(), Start::default()).await else { panic!("accepted") };
    assert!(error.is_not_found() && error.to_string() == "no such sandbox", "{error}");
}
