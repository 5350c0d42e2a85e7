//! Images that are pushed to a control plane that dies.

use atoll_tests::Atoll;
use atoll_tests::skopeo::{Skopeo, image, text};

/// What had arrived is there or is not; the client sends the image again, and it is whole.
#[tokio::test]
async fn a_control_plane_that_dies_while_an_image_is_pushed_takes_it_at_the_next_attempt() {
    atoll_tests::atoll::use_binary(env!("CARGO_BIN_EXE_atoll"));
    for point in ["control::registry::after_part", "control::registry::after_blob"] {
        // In the middle: one of the image's three blobs has come.
        let fault = format!("{point}=1*off->return(abort)");
        let mut atoll = Atoll::start_with(&[], &[("FAILPOINTS", &fault)]).await;
        let scratch = atoll.scratch();
        let image = image(&scratch);
        let skopeo = Skopeo { atoll: &atoll, scratch: &scratch };
        skopeo.sign_in();
        let to = format!("docker://{}/team/app:1", skopeo.host());
        let pushed = skopeo.run(&["copy", "--quiet", "--dest-tls-verify=false", &image, &to]);
        assert!(!pushed.status.success(), "{point}: {}", atoll.log());
        atoll.dies().await;
        atoll.unset("FAILPOINTS");
        atoll.start_again().await;
        let skopeo = Skopeo { atoll: &atoll, scratch: &scratch };
        skopeo.sign_in();
        let at = format!("docker://{}/team/app:1", skopeo.host());
        let tags = skopeo.run(&["list-tags", "--tls-verify=false", &format!("docker://{}/team/app", skopeo.host())]);
        assert!(!tags.status.success(), "{point}: half an image has a tag: {}", text(&tags.stdout));
        skopeo.copy(&image, &at);
        let back = format!("oci:{}:1", scratch.join("back").display());
        skopeo.copy(&at, &back);
        let digest = |of: &str| skopeo.does(&["inspect", "--tls-verify=false", "--format", "{{.Digest}}", of]);
        assert_eq!(digest(&image), digest(&back), "{point}");
        atoll.stop_and_check().await;
    }
}
