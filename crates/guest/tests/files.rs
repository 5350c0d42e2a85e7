//! Contents of files over HTTP.

mod common;

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use base64::Engine;
use bytes::Bytes;
use common::client::build;
use common::{Guest, SmallDisk, config, status_of};
use http_body_util::{BodyExt, StreamBody};
use serde_json::json;
use sha2::{Digest, Sha256};

const RAW: (&str, &str) = ("content-type", "application/octet-stream");

fn files(path: &str) -> String {
    format!("/files?{}", form_urlencoded::Serializer::new(String::new()).append_pair("path", path).finish())
}

fn form(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (field, name, data) in parts {
        let name = name.map(|name| format!("; filename=\"{name}\"")).unwrap_or_default();
        write!(body, "--cut\r\nContent-Disposition: form-data; name=\"{field}\"{name}\r\n\r\n").expect("written");
        body.extend_from_slice(data);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--cut--\r\n");
    body
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).expect("compressed");
    encoder.finish().expect("compressed")
}

fn gunzip(data: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(data).read_to_end(&mut plain).expect("valid gzip");
    plain
}

/// Bytes that don't compress and don't repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}

#[tokio::test]
async fn what_is_uploaded_comes_back_and_belongs_to_the_user() {
    let guest = Guest::start().await;
    for length in [0, 1, 100_000, 3_000_001] {
        let data = noise(length);
        let path = guest.path(&format!("new/deep/file-{length}.bin"));
        let url = format!("{}&username=daemon", files(&path));
        let answer = guest.client.send("POST", &url, &[RAW], data.clone()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json(), json!([{"path": path, "name": format!("file-{length}.bin"), "type": "file"}]));
        let back = guest.client.get(&files(&path)).await;
        assert_eq!((back.status, back.header("content-length")), (200, length.to_string().as_str()));
        assert!(back.body == data, "{length} bytes come back as they were");
        let meta = std::fs::metadata(&path).expect("it exists");
        assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o644, 1));
    }
    let folder = std::fs::metadata(guest.path("new/deep")).expect("it exists");
    assert_eq!((folder.mode() & 0o7777, folder.uid()), (0o755, 1));
}

#[tokio::test]
async fn a_form_stores_its_files_under_their_names_or_the_given_path() {
    let guest = Guest::start().await;
    let header = ("content-type", "multipart/form-data; boundary=cut");
    let (one, two) = (guest.path("a/one"), guest.path("b/two"));
    let large = noise(1_000_000);
    let body = form(&[("file", Some(&one), b"1"), ("other", Some("x"), b"skipped"), ("file", Some(&two), &large)]);
    let answer = guest.client.send("POST", "/files", &[header], body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()[1], json!({"path": two, "name": "two", "type": "file"}));
    assert_eq!(std::fs::read(&one).expect("stored"), b"1");
    assert!(std::fs::read(&two).expect("stored") == large);

    let given = guest.path("given");
    let body = form(&[("file", Some("ignored"), b"at the path")]);
    assert_eq!(guest.client.send("POST", &files(&given), &[header], body).await.status, 200);
    assert_eq!(std::fs::read(&given).expect("stored"), b"at the path");

    for (url, body, problem) in [
        ("/files".to_owned(), form(&[("file", Some(&one), b"1"), ("file", Some(&one), b"2")]), "more than one file"),
        (files(&given), form(&[("file", Some("x"), b"1"), ("file", Some("y"), b"2")]), "more than one file"),
        ("/files".to_owned(), form(&[("file", None, b"1")]), "no file name"),
        ("/files".to_owned(), form(&[("other", Some("x"), b"1")]), "no part named 'file'"),
        ("/files".to_owned(), b"--cut\r\nbroken".to_vec(), "can't be read"),
    ] {
        let answer = guest.client.send("POST", &url, &[header], body).await;
        assert_eq!(answer.status, 400, "{problem}");
        assert!(answer.text().contains(problem), "{}", answer.text());
    }
}

#[tokio::test]
async fn what_cant_be_stored_is_refused_with_the_reason() {
    let guest = Guest::start().await;
    let folder = guest.path("");
    for (url, headers, status, problem) in [
        (files(&folder), vec![RAW], 400, "path is a directory: "),
        ("/files".to_owned(), vec![RAW], 400, "path query parameter is required"),
        (files("/x"), vec![("content-type", "text/html")], 400, "unsupported content type: text/html"),
        (files("/x"), vec![RAW, ("content-encoding", "br")], 400, "unsupported content encoding: br"),
        (files("~other/x"), vec![RAW], 400, "another user's home"),
        (files("/a\0b"), vec![RAW], 400, "NUL byte"),
        (format!("{}&username=nobody-here", files("/x")), vec![RAW], 401, "error looking up user 'nobody-here': "),
        (files("/etc/hostname/below"), vec![RAW], 400, "not a directory"),
        (files(&guest.path("x")), vec![RAW, ("content-encoding", "gzip")], 400, "isn't valid gzip"),
    ] {
        let answer = guest.client.send("POST", &url, &headers, "no gzip, no form").await;
        assert_eq!(answer.status, status, "{problem}: {}", answer.text());
        assert_eq!(answer.json()["code"], status);
        assert!(answer.text().contains(problem), "{problem}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_refusal_arrives_though_much_is_still_being_sent() {
    let guest = Guest::start().await;
    let large = noise(30_000_000);
    for _ in 0..5 {
        let answer = guest.client.send("POST", &files(&guest.path("")), &[RAW], large.clone()).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(answer.text().contains("path is a directory: "), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_full_disk_is_507_and_the_guest_goes_on() {
    let guest = Guest::start().await;
    let disk = SmallDisk::mount(&guest.folder.path().join("small"), "1m");
    let answer = guest.client.send("POST", &files(&guest.path("small/file")), &[RAW], noise(3_000_000)).await;
    assert_eq!((answer.status, &answer.json()["code"]), (507, &json!(507)));
    assert!(answer.text().contains("not enough disk space"), "{}", answer.text());
    std::fs::remove_file(guest.path("small/file")).expect("removed");
    assert_eq!(guest.client.send("POST", &files(&guest.path("small/file")), &[RAW], "fits").await.status, 200);
    drop(disk);
}

#[tokio::test]
async fn what_cant_be_read_is_refused_with_the_reason() {
    let guest = Guest::start().await;
    guest.sh(&format!("mkfifo {}", guest.path("pipe"))).await;
    for (url, status, problem) in [
        (files("/no/such/file"), 404, "path '/no/such/file' does not exist"),
        (files("/etc"), 400, "path '/etc' is a directory"),
        (files(&guest.path("pipe")), 400, "not a regular file"),
        (files("/dev/zero"), 400, "not a regular file"),
        (files("/etc/hostname/x"), 400, "Not a directory"),
    ] {
        let answer = guest.client.get(&url).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert!(answer.text().contains(problem), "{}", answer.text());
    }
    let headers = [("accept-encoding", "br, identity;q=0")];
    assert_eq!(guest.client.send("GET", &files("/etc/hostname"), &headers, "").await.status, 406);
}

#[tokio::test]
async fn a_file_that_doesnt_know_its_length_is_read_to_its_end() {
    let guest = Guest::start().await;
    let answer = guest.client.get(&files("/proc/version")).await;
    assert_eq!((answer.status, answer.text()), (200, std::fs::read_to_string("/proc/version").expect("read")));
}

#[tokio::test]
async fn a_part_of_a_file_can_be_had() {
    let guest = Guest::start().await;
    let data = noise(1_000_000);
    let path = guest.path("file.txt");
    std::fs::write(&path, &data).expect("written");
    let get = async |headers: &[(&str, &str)]| guest.client.send("GET", &files(&path), headers, "").await;
    let part = get(&[("range", "bytes=10-19")]).await;
    assert_eq!((part.status, part.header("content-range")), (206, "bytes 10-19/1000000"));
    assert_eq!(part.body, data[10..20]);
    let tail = get(&[("range", "bytes=-500000"), ("accept-encoding", "gzip")]).await;
    assert_eq!((tail.status, tail.header("content-encoding")), (206, ""));
    assert!(tail.body == data[500_000..]);
    let beyond = get(&[("range", "bytes=1000000-")]).await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, "bytes */1000000"));

    let whole = get(&[]).await;
    assert_eq!(whole.header("content-disposition"), "inline; filename=file.txt");
    assert_eq!(whole.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(whole.header("vary"), "Accept-Encoding");
    let modified = whole.header("last-modified").to_owned();
    assert_eq!(get(&[("if-modified-since", &modified)]).await.status, 304);
    assert_eq!(get(&[("if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT")]).await.status, 412);
    assert_eq!(get(&[("range", "bytes=0-0"), ("if-range", &modified)]).await.status, 206);
    assert_eq!(get(&[("range", "bytes=0-0"), ("if-range", "Thu, 01 Jan 1970 00:00:00 GMT")]).await.status, 200);
}

#[tokio::test]
async fn gzip_goes_both_ways() {
    let guest = Guest::start().await;
    let data = "all work and no play makes Jack a dull boy\n".repeat(50_000).into_bytes();
    let path = guest.path("text");
    let headers = [RAW, ("content-encoding", "gzip")];
    let answer = guest.client.send("POST", &files(&path), &headers, gzip(&data)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(std::fs::read(&path).expect("stored") == data);
    let accept = [("accept-encoding", "gzip, deflate")];
    let back = guest.client.send("GET", &files(&path), &accept, "").await;
    assert_eq!((back.status, back.header("content-encoding"), back.header("content-length")), (200, "gzip", ""));
    assert!(back.body.len() < data.len() / 10);
    assert!(gunzip(&back.body) == data);
    // What doesn't get shorter is sent as it is, unless nothing else is accepted.
    let incompressible = noise(300_000);
    std::fs::write(&path, &incompressible).expect("written");
    let plain = guest.client.send("GET", &files(&path), &accept, "").await;
    assert_eq!(plain.header("content-encoding"), "");
    assert!(plain.body == incompressible);
    let forced = guest.client.send("GET", &files(&path), &[("accept-encoding", "gzip, identity;q=0")], "").await;
    assert_eq!(forced.header("content-encoding"), "gzip");
    assert!(gunzip(&forced.body) == incompressible);
}

#[tokio::test]
async fn notes_are_kept_replaced_and_told() {
    let guest = Guest::start().await;
    let path = guest.path("noted");
    let upload = async |headers: &[(&str, &str)]| {
        let mut all = vec![RAW];
        all.extend(headers);
        guest.client.send("POST", &files(&path), &all, "x").await
    };
    let stat = async || guest.client.rpc("filesystem.Filesystem/Stat", json!({"path": path})).await.json();
    let answer = upload(&[("x-metadata-Author", "me"), ("x-metadata-b", "2")]).await;
    assert_eq!(answer.json()[0]["metadata"], json!({"author": "me", "b": "2"}));
    assert_eq!(stat().await["entry"]["metadata"], json!({"author": "me", "b": "2"}));
    upload(&[("x-metadata-b", "3")]).await;
    assert_eq!(stat().await["entry"]["metadata"], json!({"b": "3"}));
    let answer = upload(&[]).await;
    assert_eq!(answer.json(), json!([{"path": path, "name": "noted", "type": "file"}]));
    assert_eq!(stat().await["entry"].get("metadata"), None);
    let long = "x".repeat(4096);
    let answer = upload(&[("x-metadata-a", &long)]).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("invalid metadata: "));
}

#[tokio::test]
async fn a_signed_url_opens_its_file_and_nothing_else() {
    const TOKEN: &str = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0";
    let mut config = config();
    config["access_token"] = json!(TOKEN);
    let guest = Guest::start_with(config).await;
    let path = guest.path("signed");
    let sign = |operation: &str, expiration: Option<u64>| {
        let mut text = format!("{path}:{operation}:root:{TOKEN}");
        if let Some(at) = expiration {
            text.push_str(&format!(":{at}"));
        }
        let digest = base64::engine::general_purpose::STANDARD_NO_PAD.encode(Sha256::digest(text));
        let mut url = form_urlencoded::Serializer::new(String::new());
        url.append_pair("path", &path)
            .append_pair("username", "root")
            .append_pair("signature", &format!("v1_{digest}"));
        if let Some(at) = expiration {
            url.append_pair("signature_expiration", &at.to_string());
        }
        format!("/files?{}", url.finish())
    };
    assert_eq!(guest.client.send("POST", &sign("write", None), &[RAW], "hello").await.status, 200);
    assert_eq!(guest.client.get(&sign("read", None)).await.text(), "hello");
    assert_eq!(guest.client.get(&sign("read", Some(4_000_000_000))).await.text(), "hello");
    let expired = guest.client.get(&sign("read", Some(1_000_000))).await;
    assert_eq!(
        (expired.status, expired.json()),
        (401, json!({"code": 401, "message": "signature is already expired"}))
    );
    assert_eq!(guest.client.get(&sign("write", None)).await.json()["message"], "invalid signature");
    assert_eq!(guest.client.get(&files(&path)).await.json()["message"], "missing signature query parameter");
    let token = [("x-access-token", TOKEN)];
    assert_eq!(guest.client.send("GET", &files(&path), &token, "").await.text(), "hello");
    assert_eq!(guest.client.send("POST", "/files/compose", &[], "{}").await.status, 401);
}

#[tokio::test]
async fn files_are_joined_into_one_that_appears_whole() {
    let guest = Guest::start().await;
    let [one, two, whole] = ["one", "two", "sub/whole"].map(|name| guest.path(name));
    std::fs::write(&one, noise(300_000)).expect("written");
    std::fs::write(&two, b"end").expect("written");
    let compose = async |sources: &[&str], destination: &str| {
        let body = json!({"source_paths": sources, "destination": destination, "username": "daemon"});
        guest.client.send("POST", "/files/compose", &[], body.to_string()).await
    };
    for (sources, destination, status) in [
        (vec![], whole.as_str(), 400),
        (vec![one.as_str(), whole.as_str()], whole.as_str(), 400),
        (vec!["/etc"], whole.as_str(), 400),
        (vec![one.as_str(), "/no/such/file"], whole.as_str(), 404),
    ] {
        assert_eq!(compose(&sources, destination).await.status, status, "{sources:?}");
    }
    assert!(Path::new(&one).exists() && !Path::new(&whole).exists(), "a refused request changes nothing");
    let answer = compose(&[&one, &two], &whole).await;
    assert_eq!(answer.json(), json!({"path": whole, "name": "whole", "type": "file"}));
    let mut expected = noise(300_000);
    expected.extend_from_slice(b"end");
    assert!(std::fs::read(&whole).expect("made") == expected);
    assert_eq!(std::fs::metadata(&whole).expect("made").uid(), 1);
    assert!(!Path::new(&one).exists() && !Path::new(&two).exists());
    assert_eq!(std::fs::read_dir(guest.path("sub")).expect("read").count(), 1, "no draft is left");
}

#[tokio::test]
async fn large_files_pass_through_little_memory() {
    const PIECE: usize = 1 << 20;
    const PIECES: usize = 300;
    let guest = Guest::start().await;
    let path = guest.path("large");
    let piece = Bytes::from(noise(PIECE));
    let frames =
        futures::stream::iter(std::iter::repeat_n(piece, PIECES).map(|piece| Ok(http_body::Frame::data(piece))));
    let body = StreamBody::new(frames).boxed();
    let sent = guest.client.try_request(build("POST", &files(&path), &[RAW], body)).await.expect("an answer");
    assert_eq!(sent.status(), 200);
    assert_eq!(std::fs::metadata(&path).expect("stored").len(), (PIECE * PIECES) as u64);
    let body = http_body_util::Empty::new().map_err(|never| match never {}).boxed();
    let mut back =
        guest.client.try_request(build("GET", &files(&path), &[], body)).await.expect("an answer").into_body();
    let mut received = 0;
    while let Some(frame) = back.frame().await {
        received += frame.expect("a frame").into_data().map_or(0, |data| data.len());
    }
    assert_eq!(received, PIECE * PIECES);
    let peak = status_of(guest.pid(), "VmHWM").expect("known");
    let peak: usize = peak.trim_end_matches(" kB").parse().expect("a number");
    assert!(peak < 64 * 1024, "the guest took {peak} kB");
}
