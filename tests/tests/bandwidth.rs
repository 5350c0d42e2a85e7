//! The bandwidth of a sandbox's policy, with real traffic of a container and of a virtual machine.

use std::process::{Child, Command};

use atoll_model::SandboxId;
use atoll_model::api::sandboxes::{CreateSandboxRequest, ForkRequest, NetworkPolicy};
use atoll_tests::{Atoll, until};

/// Bytes each way; at [`SLOW`] half of it would take half a minute.
const FLOOD: u64 = 4_000_000;
const SLOW: u64 = 50_000;

/// Answers `flood` with one, not so suddenly that the queue before a machine overflows.
const SERVER: &str = "
import socket, sys, time
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 98))
while True:
    asked, source = server.recvfrom(100)
    for _ in range(400 if asked == b'flood' else 0):
        for _ in range(10):
            server.sendto(bytes(1000), source)
        time.sleep(0.001)
";
/// Sends a flood, or gets one and says how much of it came.
const CLIENT: &str = "
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(1)
received = lambda: int(open('/sys/class/net/eth0/statistics/rx_bytes').read())
before = received()
if sys.argv[2] == 'send':
    for _ in range(4000):
        client.sendto(bytes(1000), (sys.argv[1], 97))
else:
    came = False
    while not came:
        client.sendto(b'flood', (sys.argv[1], 98))
        try:
            while client.recv(2000):
                came = True
        except TimeoutError:
            pass
print(received() - before)
";

fn run(line: &str) -> Result<(), String> {
    let output = Command::new("sh").args(["-ec", line]).output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{line}: {said}")) }
}

/// A network namespace that is the internet of this machine's sandboxes.
struct World {
    name: String,
    address: String,
    server: Option<Child>,
}

impl World {
    /// Takes the first number that is free on this machine.
    fn make() -> Self {
        let taken = |number: &u8| run(&format!("ip netns add atbw{number} 2>/dev/null")).is_ok();
        let number = (0..60).find(taken).expect("60 such worlds are there already: see `ip netns list`");
        let name = format!("atbw{number}");
        let (here, address) = (format!("203.0.113.{}", number * 4 + 1), format!("203.0.113.{}", number * 4 + 2));
        let mut world = Self { name: name.clone(), address: address.clone(), server: None };
        run(&format!(
            "ip link add {name} type veth peer name net0 netns {name}
             ip addr add {here}/30 dev {name}
             ip link set {name} up
             ip -n {name} addr add {address}/30 dev net0
             ip -n {name} link set net0 up"
        ))
        .unwrap_or_else(|error| panic!("{error}"));
        let server =
            Command::new("ip").args(["netns", "exec", &name, "python3", "-c", SERVER, &address]).spawn().expect("ip");
        world.server = Some(server);
        world
    }

    async fn client(&self, atoll: &Atoll, id: &SandboxId, verb: &str) -> u64 {
        let said = atoll.sh(id, &format!("python3 -c \"$(cat <<'END'{CLIENT}END\n)\" {} {verb}", self.address)).await;
        said.stdout.trim().parse().unwrap_or_else(|_| panic!("{said:?}"))
    }

    /// How much of a flood goes out of the sandbox into the world.
    async fn sent(&self, atoll: &Atoll, id: &SandboxId) -> u64 {
        let path = format!("/sys/class/net/{}/statistics/tx_bytes", self.name);
        let out = || std::fs::read_to_string(&path).expect("counters").trim().parse::<u64>().expect("a number");
        let before = out();
        self.client(atoll, id, "send").await;
        out() - before
    }

    async fn is_bounded(&self, atoll: &Atoll, id: &SandboxId, when: &str) {
        let (sent, got) = (self.sent(atoll, id).await, self.client(atoll, id, "get").await);
        assert!(sent < FLOOD / 2 && got < FLOOD / 2, "{when}: {sent} and {got} of {FLOOD} bytes");
        assert!(sent > 0 && got > 0, "{when}: something comes through");
    }

    async fn is_free(&self, atoll: &Atoll, id: &SandboxId, when: &str) {
        until(&format!("most of a flood to go out: {when}"), || async {
            (self.sent(atoll, id).await > FLOOD / 2).then_some(())
        })
        .await;
        until(&format!("most of a flood to come in: {when}"), || async {
            (self.client(atoll, id, "get").await > FLOOD / 2).then_some(())
        })
        .await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
        let _ = run(&format!("ip netns del {}", self.name));
    }
}

fn small() -> CreateSandboxRequest {
    CreateSandboxRequest { memory_mb: Some(256), disk_mb: Some(512), ..CreateSandboxRequest::default() }
}

async fn holds_for(driver: &str) {
    let world = World::make();
    let mut atoll = Atoll::start_with(&["--driver", driver], &[]).await;
    let network = NetworkPolicy { bandwidth_bytes_per_second: Some(SLOW), ..NetworkPolicy::default() };
    let id = atoll.sandbox_with(CreateSandboxRequest { network: Some(network.clone()), ..small() }).await.id;
    let neighbour = atoll.sandbox_with(small()).await.id;
    world.is_bounded(&atoll, &id, "from the start").await;
    world.is_free(&atoll, &neighbour, "the neighbour").await;
    atoll.kill_9();
    atoll.start_again().await;
    world.is_bounded(&atoll, &id, "after the agent's death").await;
    atoll.client().pause_sandbox(&id).await.expect("pause");
    assert_eq!(atoll.client().resume_sandbox(&id).await.expect("resume").network, network);
    world.is_bounded(&atoll, &id, "after a pause").await;
    let child = atoll.client().fork_sandbox(&id, &ForkRequest::default()).await.expect("fork");
    let child = child.items.into_iter().find_map(|item| item.sandbox).expect("a child").id;
    world.is_bounded(&atoll, &child, "its fork").await;
    // As people change it.
    let set = |rest: &[&str]| {
        let args = [&["sandbox", "network", id.as_str()], rest].concat();
        let said = atoll.cli(&args).output().expect("atoll");
        assert!(said.status.success(), "{said:?}");
    };
    set(&["--bandwidth", "1G"]);
    world.is_free(&atoll, &id, "changed").await;
    set(&["--bandwidth", "40K"]);
    world.is_bounded(&atoll, &id, "changed back").await;
    set(&[]);
    world.is_free(&atoll, &id, "taken away").await;
    world.is_bounded(&atoll, &child, "its fork, whose it is").await;
    assert_eq!(atoll.client().get_sandbox(&id).await.expect("get").network, NetworkPolicy::default());
    atoll.stop_and_check().await;
}

#[tokio::test]
async fn a_containers_bandwidth_holds_whatever_becomes_of_it() {
    holds_for("container").await;
}

#[tokio::test]
async fn a_machines_bandwidth_holds_whatever_becomes_of_it() {
    holds_for("vm").await;
}
