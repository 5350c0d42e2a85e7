//! Agents that die in the middle of something with a virtual machine.

use atoll_model::SandboxStatus;
use atoll_model::api::sandboxes::CreateSandboxRequest;
use atoll_tests::{Atoll, until};

pub fn small() -> CreateSandboxRequest {
    CreateSandboxRequest { memory_mb: Some(256), disk_mb: Some(512), ..CreateSandboxRequest::default() }
}

/// This very binary, which has fault points.
async fn start(point: &str, fault: &str, env: &[(&str, &str)]) -> Atoll {
    atoll_tests::atoll::use_binary(env!("CARGO_BIN_EXE_atoll"));
    println!("{point}");
    let env: Vec<_> = env.iter().copied().chain([("FAILPOINTS", fault)]).collect();
    Atoll::start_with(&["--driver", "vm"], &env).await
}

/// The agent dies while it makes a sandbox of a machine that is up already: neither is left, and nothing else has suffered.
#[tokio::test]
async fn of_a_machine_that_was_about_to_be_taken_over_nothing_is_left() {
    for point in ["agent.create.after_record", "vm::spare::named", "vm::spare::moved", "vm::spare::goes_on"] {
        let fault = match point {
            "agent.create.after_record" => format!("{point}=2*off->return(abort)"),
            _ => format!("{point}=return(abort)"),
        };
        let env = [("ATOLL_LOG", "info,atoll_host::sandboxes=debug"), ("ATOLL_SPARE_MACHINES", "1")];
        let mut atoll = start(point, &fault, &env).await;
        let mut both = Vec::new();
        for _ in 0..2 {
            both.push(atoll.sandbox_with(small()).await.id);
        }
        until("a spare", || async { atoll.log().contains("a spare machine is ready").then_some(()) }).await;
        assert!(atoll.client().create_sandbox(&small()).await.is_err(), "{point}");
        atoll.dies().await;
        atoll.unset("FAILPOINTS");
        atoll.start_again().await;
        for id in &both {
            assert_eq!(atoll.sh(id, "hostname").await.stdout, format!("{}\n", id.dns_label()), "{point}");
        }
        until("nothing else", || async {
            let homes = std::fs::read_dir(atoll.data_dir().join("sandboxes")).expect("records").count();
            (homes == both.len()).then_some(())
        })
        .await;
        atoll.stop_and_check().await;
    }
}

/// The agent dies while a machine goes on with what it had in memory: it is paused with that, before and after.
#[tokio::test]
async fn a_machine_whose_agent_dies_while_it_resumes_is_paused_with_its_memory() {
    for point in ["vm::resume::loaded", "vm::resume::forgotten", "agent.resume.before_record"] {
        let fault = format!("{point}=return(abort)");
        let mut atoll = start(point, &fault, &[]).await;
        let id = atoll.sandbox_with(small()).await.id;
        let pid = atoll.sh(&id, "sleep 1000 > /dev/null 2>&1 & echo $!").await.stdout;
        atoll.client().pause_sandbox(&id).await.expect("pause");
        assert!(atoll.client().resume_sandbox(&id).await.is_err(), "{point}");
        atoll.dies().await;
        atoll.unset("FAILPOINTS");
        atoll.start_again().await;
        // Control, which has decided so, has it resumed again; or somebody else does.
        until("it to run", || async {
            let status = atoll.client().get_sandbox(&id).await.ok()?.status;
            if status == SandboxStatus::Paused {
                let _control_was_first = atoll.client().resume_sandbox(&id).await;
            }
            (status == SandboxStatus::Running).then_some(())
        })
        .await;
        assert_eq!(atoll.sh(&id, &format!("cat /proc/{}/comm", pid.trim())).await.stdout, "sleep\n", "{point}");
        atoll.stop_and_check().await;
    }
}
