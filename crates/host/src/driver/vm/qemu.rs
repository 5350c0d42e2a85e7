//! The machine as QEMU is told of it. Everything comes as a descriptor: the process can open hardly any path.

use std::io;
use std::os::fd::OwnedFd;

use super::accel::Accel;
use crate::network::Tap;

/// Bytes of the guest's console that are kept, for whoever asks why it did not come up.
const CONSOLE_BYTES: usize = 64 << 10;

/// Where the program and what it loads are found inside its jail.
pub(super) const KERNEL: &str = "/kernel";
pub(super) const INITRAMFS: &str = "/initramfs";

/// A machine to be started.
pub(super) struct Machine {
    pub accel: Accel,
    pub vcpus: u32,
    pub memory_bytes: u64,
    /// Read-only, topmost first.
    pub lowers: Vec<OwnedFd>,
    /// For writing, and the same for reading only: it is opened in both ways.
    pub disk: [OwnedFd; 2],
    /// Listening sockets.
    pub port: OwnedFd,
    /// None for one that goes on with what a machine was before there was such a port.
    pub volumes: Option<OwnedFd>,
    /// Whether its processor is as former agents had it.
    pub old_processor: bool,
    /// Whether it has a clock chip; all have that boot now. A kernel asks for one twice while it boots, and waits for
    /// a second each time where there is none.
    pub clock: bool,
    pub qmp: OwnedFd,
    pub tap: Option<Tap>,
}

/// Its arguments, and the descriptors that they speak of: the first is to have the number [`FIRST`].
pub(super) struct Command {
    pub arguments: Vec<String>,
    pub descriptors: Vec<OwnedFd>,
}

const MEMORY: &str = "memory-backend-memfd,";
/// Memory of its own, and a private mapping of what it is lent in place of a new memfd.
const OWN: &str = ",share=on";
const LENT: &str = ",share=off,seal=off,merge=off";
/// The firmware, by its name: what a `microvm` has otherwise is another one in newer packages, which needs what is off here.
pub(crate) const FIRMWARE: [&str; 2] = ["-bios", "qboot.rom"];
/// What the kernel is told.
const TOLD: &str = "-append";
/// That it is the first process of a sandbox.
const ARGUMENT: &str = "vm";
const NETWORK_DEVICE: &str = "virtio-net-device";
/// What every machine's network has at first; the guest is told its own. A kernel remembers the first for ever, and copies of
/// a machine should not know whose it was.
const MAC: &str = "02:61:74:6c:00:00";

/// Below are the standard streams; nothing else is open.
pub(super) const FIRST: usize = 10;

pub(super) const PROGRAM: &str = "qemu-system-x86_64";

impl Command {
    /// It is to wait until it is told what a machine of the same shape was, and to go on with that: its devices are
    /// written down `with_configuration` or without, and its memory is lent to it.
    pub fn go_on(&mut self, with_configuration: bool) {
        for word in self.arguments.iter_mut().filter(|word| word.starts_with(MEMORY)) {
            *word = word.replace(OWN, LENT);
        }
        self.arguments.extend(["-S", "-incoming", "defer"].map(str::to_owned));
        if !with_configuration {
            let words = ["-global", "migration.send-configuration=off", "-machine", "suppress-vmdesc=on"];
            self.arguments.extend(words.map(str::to_owned));
        }
    }

    /// What machines have in common of which one can go on as the other: all but the address of its network, what a
    /// kernel is told only when it `boots`, and the firmware, which former agents did not name (and got none but this one).
    pub fn shape(&self, boots: bool) -> impl Iterator<Item = &str> {
        let told = self.arguments.iter().position(|word| word == TOLD).map(|place| place + 1);
        let words = self.arguments.iter().map(String::as_str).enumerate();
        let words = words.filter(move |(place, _)| boots || Some(*place) != told);
        words.map(|(_, word)| word).filter(|word| !word.starts_with(NETWORK_DEVICE) && !FIRMWARE.contains(word))
    }
}

impl Machine {
    /// The same as machines were with the former processor; before that, without a clock chip; and before that, without a
    /// port of volumes.
    pub fn formerly(&self) -> io::Result<[Self; 3]> {
        let former = |clock: bool, volumes: Option<&OwnedFd>| {
            let volumes = volumes.map(OwnedFd::try_clone).transpose()?;
            io::Result::Ok(Self { old_processor: true, clock, volumes, ..self.try_clone()? })
        };
        let volumes = self.volumes.as_ref();
        Ok([former(true, volumes)?, former(false, volumes)?, former(false, None)?])
    }

    fn try_clone(&self) -> io::Result<Self> {
        let [writing, reading] = &self.disk;
        let tap = |tap: &Tap| io::Result::Ok(Tap { fd: tap.fd.try_clone()?, ..*tap });
        Ok(Self {
            accel: self.accel,
            vcpus: self.vcpus,
            memory_bytes: self.memory_bytes,
            lowers: self.lowers.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?,
            disk: [writing.try_clone()?, reading.try_clone()?],
            port: self.port.try_clone()?,
            volumes: self.volumes.as_ref().map(OwnedFd::try_clone).transpose()?,
            old_processor: self.old_processor,
            clock: self.clock,
            qmp: self.qmp.try_clone()?,
            tap: self.tap.as_ref().map(tap).transpose()?,
        })
    }

    pub fn command(self) -> Command {
        let mut descriptors = Vec::new();
        let mut inherit = |fd: OwnedFd| {
            descriptors.push(fd);
            FIRST + descriptors.len() - 1
        };
        let memory = self.memory_bytes >> 20;
        let mut arguments: Vec<String> = Vec::new();
        let mut say = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
        say(&["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        let clock = if self.clock { "on" } else { "off" };
        let kind = "microvm,memory-backend=ram,x-option-roms=off,isa-serial=on,pit=off";
        say(&["-machine", &format!("{kind},rtc={clock}")]);
        say(&FIRMWARE);
        say(if self.old_processor { self.accel.former_arguments() } else { self.accel.arguments() });
        say(&["-smp", &self.vcpus.to_string(), "-m", &format!("{memory}M")]);
        say(&["-object", &format!("{MEMORY}id=ram,size={memory}M{OWN}")]);
        say(&["-kernel", KERNEL, "-initrd", INITRAMFS, TOLD, &kernel_command_line(self.accel, ARGUMENT)]);
        say(&["-chardev", &format!("ringbuf,id=console,size={CONSOLE_BYTES}"), "-serial", "chardev:console"]);

        let lowers = self.lowers.into_iter().enumerate().map(|(number, fd)| (format!("lower{number}"), true, vec![fd]));
        let disk = ("disk".to_owned(), false, self.disk.into());
        for (set, (name, read_only, fds)) in lowers.chain([disk]).enumerate() {
            for fd in fds {
                say(&["-add-fd", &format!("fd={},set={set}", inherit(fd))]);
            }
            let read_only = if read_only { "readonly=on" } else { "discard=unmap,detect-zeroes=unmap" };
            // A full pool is told to the guest as an error; the default would stop the machine.
            let file = format!("file=/dev/fdset/{set},file.locking=off,format=raw,if=none,id={name}");
            say(&["-drive", &format!("{file},werror=report,rerror=report,{read_only}")]);
            say(&["-device", &format!("virtio-blk-device,drive={name},serial={name}")]);
        }

        let ports = [
            Some(("port", self.port, atoll_rpc::channel::PORT)),
            self.volumes.map(|socket| ("volumes", socket, atoll_rpc::volumes::PORT)),
        ];
        let most = ports.iter().flatten().count() + 1;
        for (id, socket, name) in ports.into_iter().flatten() {
            let fd = inherit(socket);
            say(&["-chardev", &format!("socket,id={id},fd={fd},server=on,wait=off")]);
            if id == "port" {
                say(&["-device", &format!("virtio-serial-device,max_ports={most}")]);
            }
            say(&["-device", &format!("virtserialport,chardev={id},name={name}")]);
        }
        if let Some(tap) = self.tap {
            let (fd, mtu) = (inherit(tap.fd), tap.mtu);
            say(&["-netdev", &format!("tap,id=net,fd={fd},vhost=off")]);
            say(&["-device", &format!("{NETWORK_DEVICE},netdev=net,mac={MAC},host_mtu={mtu}")]);
        }
        say(&["-object", "rng-builtin,id=rng", "-device", "virtio-rng-device,rng=rng"]);
        say(&["-device", "virtio-balloon-device,id=balloon,free-page-reporting=on"]);
        let qmp = inherit(self.qmp);
        say(&["-chardev", &format!("socket,id=qmp,fd={qmp},server=on,wait=off")]);
        say(&["-mon", "chardev=qmp,mode=control"]);
        say(&["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
        Command { arguments, descriptors }
    }
}

/// What a kernel is told, and the word for its first process.
pub(crate) fn kernel_command_line(accel: Accel, word: &str) -> String {
    // There is no keyboard to look for, and the kernel's ciphers were tested by those who built it.
    let quick = "initcall_blacklist=i8042_init cryptomgr.notests";
    let first = format!("console=ttyS0 loglevel=3 edd=off reboot=t panic=-1 random.trust_cpu=on {quick} rdinit=/init");
    // What follows the dashes is for the guest agent.
    format!("{first} {} -- {word}", accel.kernel_parameters())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn every_descriptor_is_spoken_of_by_its_number() {
        let machine = || Machine {
            accel: Accel::Tcg,
            vcpus: 2,
            memory_bytes: 256 << 20,
            lowers: vec![fd(), fd()],
            disk: [fd(), fd()],
            port: fd(),
            volumes: Some(fd()),
            old_processor: false,
            clock: true,
            qmp: fd(),
            tap: Some(Tap { fd: fd(), mtu: 1400, mac: [2, 0x61, 0x74, 0x6c, 0x70, 1] }),
        };
        let command = machine().command();
        let text = command.arguments.join(" ");
        for number in FIRST..FIRST + command.descriptors.len() {
            assert!(text.contains(&format!("fd={number},")), "{number}: {text}");
        }
        assert_eq!(command.descriptors.len(), 8);
        assert!(text.contains("mac=02:61:74:6c:00:00,host_mtu=1400"), "whatever its own");
        let other = Machine { tap: Some(Tap { fd: fd(), mtu: 1500, mac: [2; 6] }), ..machine() };
        let other = other.command();
        assert!([true, false].into_iter().all(|boots| command.shape(boots).eq(other.shape(boots))));
        assert!(command.shape(true).any(|word| word.starts_with("console=")));
        assert!(!command.shape(false).any(|word| word.starts_with("console=")));
        let [old_processor, no_clock, old] = machine().formerly().unwrap().map(Machine::command);
        let said = |command: &Command| command.shape(false).collect::<Vec<_>>().join(" ");
        let words = "rtc=on -accel tcg,thread=multi,tb-size=64 -cpu max -smp";
        assert!(said(&old_processor).contains(words), "as it was said then");
        assert!(!command.shape(false).eq(old.shape(false)) && !command.shape(false).eq(no_clock.shape(false)));
        assert!(!no_clock.shape(false).eq(old.shape(false)));
        let kind = "-machine microvm,memory-backend=ram,x-option-roms=off,isa-serial=on,pit=off,rtc=off -accel";
        assert!([&no_clock, &old].iter().all(|it| said(it).contains(kind)), "as it was said then");
        assert!(text.contains(",rtc=on -bios qboot.rom -accel") && command.shape(true).all(|word| word != "-bios"));
        // As it was said before there were two ports.
        let words = "-chardev socket,id=port,fd=14,server=on,wait=off -device virtio-serial-device,max_ports=2 \
                     -device virtserialport,chardev=port,name=atoll -netdev tap,id=net,fd=15,";
        assert!(old.arguments.join(" ").contains(words), "{}", old.arguments.join(" "));
        let larger = Machine { memory_bytes: 512 << 20, ..machine() };
        assert!(!command.shape(false).eq(larger.command().shape(false)));
        assert!(text.contains("-sandbox on") && text.contains("serial=lower1") && text.contains("serial=disk"));
    }
}
