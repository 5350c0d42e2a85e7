//! `atoll cp`: what goes in comes out.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use atoll_tests::Atoll;
use atoll_tests::command::{text, with_input};

fn tree(root: &Path) {
    std::fs::create_dir_all(root.join("deep/er")).unwrap();
    std::fs::create_dir(root.join("empty")).unwrap();
    std::fs::write(root.join("ü b"), "text\n").unwrap();
    std::fs::write(root.join("deep/er/big"), (0..2_000_000).map(|n| (n * 31) as u8).collect::<Vec<_>>()).unwrap();
    std::fs::set_permissions(root.join("ü b"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("deep/er/big", root.join("link")).unwrap();
}

fn assert_same(left: &Path, right: &Path) {
    let output = std::process::Command::new("diff").arg("-r").args([left, right]).output().expect("diff");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test]
async fn directories_and_files_come_back_as_they_went() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    let scratch = atoll.scratch();
    let (source, back) = (scratch.join("source"), scratch.join("back"));
    tree(&source);
    let remote = |path: &str| format!("{id}:{path}");
    let path = |path: &Path| path.to_str().unwrap().to_owned();

    text(atoll.cli(&["cp", &path(&source), &remote("/tmp/tree")]));
    assert_eq!(
        atoll.sh(&id, "stat -c %U:%a '/tmp/tree/ü b'; readlink /tmp/tree/link").await.stdout,
        "user:755\ndeep/er/big\n"
    );
    text(atoll.cli(&["cp", &remote("/tmp/tree"), &path(&back)]));
    assert_same(&source, &back);
    assert_eq!(std::fs::read_link(back.join("link")).unwrap(), Path::new("deep/er/big"));

    // Into a directory that exists, things go under their own name.
    text(atoll.cli(&["cp", &path(&source), &remote("/tmp/tree")]));
    text(atoll.cli(&["cp", &remote("/tmp/tree/source/deep/er/big"), &path(&back)]));
    assert_same(&source.join("deep/er/big"), &back.join("big"));

    // Pipes, and executables.
    let input = b"from a pipe\0\xff".to_vec();
    assert!(with_input(atoll.cli(&["cp", "-", &remote("piped")]), &input).status.success());
    assert_eq!(atoll.cli(&["cp", &remote("piped"), "-"]).output().unwrap().stdout, input);
    text(atoll.cli(&["cp", &path(&source.join("ü b")), &remote("/tmp/tool")]));
    assert_eq!(atoll.sh(&id, "stat -c %a /tmp/tool").await.stdout, "755\n");
}

#[tokio::test]
async fn what_can_not_be_copied_is_said_and_leaves_nothing_half_done() {
    let atoll = Atoll::start().await;
    let id = atoll.sandbox().await.id;
    let scratch = atoll.scratch();
    let target = scratch.join("target");
    for (source, destination, complaint) in [
        (format!("{id}:/there/is/nothing"), target.to_str().unwrap().to_owned(), "there is no"),
        (target.to_str().unwrap().to_owned(), format!("{id}:/tmp/x"), "target"),
        (format!("{id}:/tmp"), format!("{id}:/home"), "both sides"),
        ("a".to_owned(), "b".to_owned(), "neither side"),
        (format!("{id}:/root/.profile"), target.to_str().unwrap().to_owned(), "permission denied"),
        ("-".to_owned(), format!("{id}:/proc/x"), "/proc/x"),
    ] {
        let output = atoll.cli(&["cp", &source, &destination]).output().expect("cp");
        let stderr = String::from_utf8_lossy(&output.stderr).to_lowercase();
        assert_eq!(output.status.code(), Some(1), "{source} {destination}");
        assert!(stderr.contains(complaint), "{source} {destination}: {stderr}");
    }
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0);
}
