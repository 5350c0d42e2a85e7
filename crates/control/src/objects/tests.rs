//! The same promises of a folder and of a bucket. The bucket is moto's, a server of its own that speaks S3.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use atoll_image::packed::{Index, Packing, Unpacker};
use sha2::{Digest, Sha256};

use super::*;

/// A bucket on a server of its own, which ends with it.
struct S3 {
    server: Child,
    settings: BucketSettings,
    _log: tempfile::TempDir,
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ended_already = self.server.kill();
        let _reaped = self.server.wait();
    }
}

impl S3 {
    async fn start() -> Self {
        let program = std::env::var("ATOLL_TEST_MOTO").expect(
            "ATOLL_TEST_MOTO must name the program moto_server; scripts/test.sh installs it (pip install 'moto[server]')",
        );
        let log = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let output =
            || Stdio::from(std::fs::File::options().create(true).append(true).open(log.path().join("log")).unwrap());
        let server = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output())
            .spawn()
            .unwrap();
        let endpoint = format!("http://127.0.0.1:{port}");
        let settings = BucketSettings {
            endpoint: Some(endpoint.clone()),
            key: Some(("test".to_owned(), "test".to_owned().into())),
            ..BucketSettings::parse("s3://images/some/where").unwrap()
        };
        let this = Self { server, settings, _log: log };
        let begun = Instant::now();
        loop {
            let request = http::Request::put(format!("{endpoint}/images")).body(Vec::new()).unwrap();
            match crate::outbound::send(request).await {
                Ok(answer) if answer.status().is_success() => return this,
                answer => assert!(begun.elapsed() < Duration::from_secs(60), "moto does not answer: {answer:?}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

async fn bytes_as_they_lie(content: Content) -> Vec<u8> {
    let length = content.bytes;
    let parts: Vec<Bytes> = futures::TryStreamExt::try_collect(content.stream).await.unwrap();
    let bytes = parts.concat();
    assert!(length.is_none_or(|length| bytes.len() as u64 == length));
    bytes
}

async fn bytes_of(content: Content) -> Vec<u8> {
    bytes_as_they_lie(content.raw().unwrap()).await
}

fn packed(image: &[u8]) -> Vec<u8> {
    Packing::new(image).unwrap().collect::<Result<Vec<_>, _>>().unwrap().concat()
}

async fn write(objects: &Objects, name: &str, form: Form, bytes: &[u8], most: u64) -> Result<(), ObjectError> {
    let mut draft = objects.draft(name, most)?;
    draft.comes(form)?;
    for portion in bytes.chunks(700_000) {
        draft.write(Bytes::copy_from_slice(portion)).await?;
    }
    draft.finish().await
}

/// Of parts of what clients push.
async fn promises_of_parts(objects: &Objects) {
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 7) as u8).collect();
    let draft = objects.temporary().unwrap();
    std::fs::write(draft.path(), &bytes).unwrap();
    objects.keep_part(draft, "one").await.unwrap();
    assert_eq!(objects.part_bytes("one").await.unwrap(), Some(bytes.len() as u64));
    for from in [0, 1, 2_000_001, bytes.len() - 1] {
        let content = objects.part("one", from as u64).await.unwrap().unwrap();
        assert!(bytes_as_they_lie(content).await == bytes[from..], "from {from}");
    }
    objects.delete_part("one").await.unwrap();
    assert!(objects.part("one", 0).await.unwrap().is_none());
    assert_eq!(objects.part_bytes("one").await.unwrap(), None);
}

/// Of images that come or lie in one form or the other.
async fn promises_of_forms(objects: &Objects) {
    let image: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 7) as u8).collect();
    let (name, whole) = (digest(&image), image.len() as u64);
    let packed = packed(&image);
    // What comes packed is kept as it came, and checked all the same.
    write(objects, &name, Form::Packed, &packed, whole).await.unwrap();
    let content = objects.read(&name).await.unwrap().unwrap();
    assert_eq!(content.form, Form::Packed);
    assert!(bytes_as_they_lie(content).await == packed);
    assert!(bytes_of(objects.read(&name).await.unwrap().unwrap()).await == image);
    // Each of its chunks can be had alone, by the index that was made on the way or by one that is made later.
    let index = objects.index(&name).await.unwrap().unwrap();
    let chunks = Index::decode(&index).unwrap();
    let mut again = Vec::new();
    for (number, chunk) in chunks.chunks().iter().enumerate() {
        let part = objects.part_of_image(&name, chunks.packed(&(number..number + 1))).await.unwrap();
        let (content, total) = part.unwrap();
        assert_eq!((content.form, total), (Form::Packed, packed.len() as u64));
        again.extend(chunk.unpack(&bytes_as_they_lie(content).await).unwrap());
    }
    assert!(again == image);
    let end = packed.len() as u64;
    let (rest, _) = objects.part_of_image(&name, end - 3..end + 9).await.unwrap().unwrap();
    assert_eq!(bytes_as_they_lie(rest).await, packed[packed.len() - 3..]);
    assert!(objects.part_of_image(&name, end..end + 1).await.unwrap().is_none());
    objects.delete_name(&index_name(&name)).await.unwrap();
    assert!(objects.index(&name).await.unwrap().is_none());
    assert!(objects.make_index(&name).await.unwrap());
    assert_eq!(objects.index(&name).await.unwrap().unwrap(), index);
    objects.delete(&name).await.unwrap();
    assert!(objects.index(&name).await.unwrap().is_none(), "it goes with its image");
    assert!(!objects.make_index(&name).await.unwrap());

    for (form, bytes) in [(Form::Packed, packed.as_slice()), (Form::Raw, image.as_slice())] {
        let refused = write(objects, &name, form, bytes, whole - 1).await.unwrap_err();
        assert!(matches!(refused, ObjectError::TooLarge(_)), "{refused:?}");
        let refused = write(objects, &digest(b"another"), form, bytes, whole).await.unwrap_err();
        assert!(matches!(refused, ObjectError::WrongDigest { .. }), "{refused:?}");
    }
    let cut = write(objects, &name, Form::Packed, &packed[..packed.len() - 1], whole).await.unwrap_err();
    let raw = write(objects, &name, Form::Packed, &image, whole).await.unwrap_err();
    assert!(matches!((&cut, &raw), (ObjectError::Io { .. }, ObjectError::Io { .. })), "{cut:?} {raw:?}");
    assert!(!objects.has(&name).await.unwrap());

    // One that was stored before images were packed.
    let mut file = objects.temporary().unwrap();
    io::Write::write_all(&mut file, &image).unwrap();
    objects.keep(file, raw_name(&name)).await.unwrap();
    assert!(objects.has(&name).await.unwrap());
    let content = objects.read(&name).await.unwrap().unwrap();
    assert_eq!((content.form, content.bytes), (Form::Raw, Some(whole)));
    assert!(bytes_of(content).await == image);
    let before = objects.list().await.unwrap().len();
    write(objects, &name, Form::Raw, &image, whole).await.unwrap();
    assert_eq!(objects.list().await.unwrap().len(), before, "in both forms it is one");
    objects.delete(&name).await.unwrap();
    assert!(!objects.has(&name).await.unwrap());
}

#[tokio::test]
async fn a_file_elsewhere_is_packed_while_it_is_read() {
    let image: Vec<u8> = (0..2_500_000_u32).map(|at| (at / 9) as u8).collect();
    let mut file = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut file, &image).unwrap();
    io::Seek::rewind(&mut file).unwrap();
    let content = Content::packing(file).unwrap();
    assert_eq!((content.form, content.bytes), (Form::Packed, None));
    let bytes = bytes_as_they_lie(content).await;
    let mut unpacker = Unpacker::new().unwrap();
    let mut found = Vec::new();
    unpacker.push(&bytes, &mut |piece| io::Write::write_all(&mut found, piece)).unwrap();
    unpacker.finish().unwrap();
    assert!(found == image && bytes.len() < image.len() / 10);
}

/// What is promised of any store; the first of its objects has `size` bytes.
async fn promises(objects: &Objects, size: usize) {
    // Can't be packed smaller.
    let mut image = vec![0; size];
    rand::Rng::fill(&mut rand::rng(), image.as_mut_slice());
    let name = digest(&image);
    assert!(!objects.has(&name).await.unwrap());
    assert!(objects.read(&name).await.unwrap().is_none());
    let mut wrong = objects.draft(&name, size as u64).unwrap();
    wrong.write(Bytes::from_static(b"imagx")).await.unwrap();
    assert!(matches!(wrong.finish().await, Err(ObjectError::WrongDigest { .. })));
    assert!(!objects.has(&name).await.unwrap());

    let mut right = objects.draft(&name, size as u64).unwrap();
    for chunk in image.chunks(1 << 20) {
        right.write(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    right.finish().await.unwrap();
    assert!(objects.has(&name).await.unwrap());
    assert!(bytes_of(objects.read(&name).await.unwrap().unwrap()).await == image);

    let mut draft = objects.temporary().unwrap();
    io::Write::write_all(&mut draft, b"small").unwrap();
    objects.import(draft.path(), &digest(b"small")).await.unwrap();
    let mut listed: Vec<_> = objects.list().await.unwrap().into_iter().map(|listed| listed.digest).collect();
    listed.sort();
    let mut expected = [name.clone(), digest(b"small")];
    expected.sort();
    assert_eq!(listed, expected);

    let mut draft = objects.temporary().unwrap();
    io::Write::write_all(&mut draft, b"an archive").unwrap();
    objects.keep_files(draft, "team-1234").await.unwrap();
    assert!(objects.has_files("team-1234").await.unwrap());
    assert!(!objects.has_files("team-1235").await.unwrap());
    let mut file = objects.files("team-1234").await.unwrap().unwrap();
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut file, &mut text).await.unwrap();
    assert_eq!(text, "an archive");
    assert_eq!(objects.list().await.unwrap().len(), 2, "files of builds are no images");
    objects.sweep_files(Duration::from_secs(3600)).await.unwrap();
    assert!(objects.has_files("team-1234").await.unwrap());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    objects.sweep_files(Duration::from_millis(1)).await.unwrap();
    assert!(objects.files("team-1234").await.unwrap().is_none());

    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(elsewhere.path(), b"imported").unwrap();
    for _ in 0..2 {
        objects.import(elsewhere.path(), &digest(b"imported")).await.unwrap();
    }
    assert!(objects.has(&digest(b"imported")).await.unwrap());
    for _ in 0..2 {
        objects.delete(&name).await.unwrap();
    }
    assert!(objects.read(&name).await.unwrap().is_none());
}

#[tokio::test]
async fn a_folder_keeps_its_promises() {
    let dir = tempfile::tempdir().unwrap();
    let objects = Objects::open(dir.path()).unwrap();
    promises(&objects, 3 << 20).await;
    promises_of_forms(&objects).await;
    promises_of_parts(&objects).await;
    // A draft that a crash has left goes with the next start; objects stay.
    let before = std::fs::read_dir(objects.folder()).unwrap().count();
    std::fs::write(objects.folder().join(".draft-x"), b"half").unwrap();
    let objects = Objects::open(dir.path()).unwrap();
    assert_eq!(std::fs::read_dir(objects.folder()).unwrap().count(), before);
}

#[tokio::test]
async fn a_bucket_keeps_the_same_promises_and_replicas_see_each_others_objects() {
    let s3 = S3::start().await;
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let objects = Objects::open_bucket(dir.path(), &s3.settings).await.unwrap();
    // Three parts, the last of them not whole.
    promises(&objects, 35 << 20).await;
    promises_of_forms(&objects).await;
    promises_of_parts(&objects).await;
    assert_eq!(std::fs::read_dir(objects.folder()).unwrap().count(), 0, "nothing stays on the disk");
    let another = Objects::open_bucket(other.path(), &s3.settings).await.unwrap();
    assert!(another.has(&digest(b"small")).await.unwrap());
    // Another Atoll in the same bucket.
    let apart = BucketSettings { prefix: "some".to_owned(), ..s3.settings.clone() };
    let apart = Objects::open_bucket(other.path(), &apart).await.unwrap();
    assert!(!apart.has(&digest(b"small")).await.unwrap());
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_said_at_the_start() {
    let s3 = S3::start().await;
    let dir = tempfile::tempdir().unwrap();
    let missing = BucketSettings { bucket: "missing".to_owned(), ..s3.settings.clone() };
    let error = Objects::open_bucket(dir.path(), &missing).await.unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn addresses_of_buckets_are_judged() {
    let good = BucketSettings::parse("s3://my-bucket/a/b/").unwrap();
    assert_eq!((good.bucket.as_str(), good.prefix.as_str()), ("my-bucket", "a/b"));
    assert_eq!(BucketSettings::parse("s3://abc").unwrap().prefix, "");
    for bad in
        ["my-bucket", "s3://", "s3://ab", "s3://Bucket", "s3://bucket/a//b", "s3://bucket/../x", "s3://bucket/a b"]
    {
        assert!(BucketSettings::parse(bad).is_err(), "{bad}");
    }
}
