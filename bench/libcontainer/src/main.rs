//! Times libcontainer (youki's library): create and start of the bundle's container, then its forced delete.
//! Usage: bench-libcontainer BUNDLE ROUNDS; prints `create_start_ms delete_ms` per round.

use std::path::PathBuf;
use std::time::Instant;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let bundle = PathBuf::from(args.next().ok_or_else(|| anyhow::anyhow!("usage: bench-libcontainer BUNDLE ROUNDS"))?);
    let rounds: usize = args.next().as_deref().unwrap_or("20").parse()?;
    let root = bundle.join("libcontainer-state");
    std::fs::create_dir_all(&root)?;
    for round in 0..rounds {
        let begin = Instant::now();
        let mut container = ContainerBuilder::new(format!("bench-{round}"), SyscallType::default())
            .with_root_path(&root)?
            .as_init(&bundle)
            .with_systemd(false)
            .with_detach(true)
            .build()?;
        container.start()?;
        let started = begin.elapsed();
        let begin = Instant::now();
        container.delete(true)?;
        println!("{:.3} {:.3}", started.as_secs_f64() * 1e3, begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}
