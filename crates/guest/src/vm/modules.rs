//! Kernel modules, from the initramfs: `/modules/order` names them, each after those that it needs.
//!
//! Disks and network are not looked at before the host has said who this is: until then the machine can be
//! copied, and the copy be given others.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::path::Path;

use super::During;

/// Their devices wait.
const LATE: [&str; 2] = ["virtio_net.ko", "virtio_blk.ko"];
const BUS: &str = "/sys/bus/virtio";

pub fn load_all() -> io::Result<()> {
    let folder = Path::new("/modules");
    let order = fs::read_to_string(folder.join("order")).during("reading /modules/order")?;
    for name in order.lines().filter(|line| !line.is_empty()) {
        let late = LATE.contains(&name);
        if late {
            look_at_devices(false)?;
        }
        load(&fs::read(folder.join(name)).during(name)?).during(name)?;
        if late {
            look_at_devices(true)?;
        }
    }
    // They are in the kernel now, and the initramfs is memory.
    fs::remove_dir_all(folder)
}

/// Whether a driver takes its devices when it is loaded.
fn look_at_devices(at_once: bool) -> io::Result<()> {
    fs::write(format!("{BUS}/drivers_autoprobe"), if at_once { "1" } else { "0" }).during("drivers_autoprobe")
}

/// Has the devices taken that no driver has yet.
pub fn take_devices() -> io::Result<()> {
    for device in fs::read_dir(format!("{BUS}/devices")).during("looking for devices")?.flatten() {
        if !device.path().join("driver").exists() {
            // One that nothing drives is answered with an error, and missed where it is needed.
            let _nobody_wants_it = fs::write(format!("{BUS}/drivers_probe"), device.file_name().as_encoded_bytes());
        }
    }
    Ok(())
}

fn load(image: &[u8]) -> io::Result<()> {
    let options: &CStr = c"";
    // SAFETY: the kernel copies the image, of the length given, and the empty C string.
    let result = unsafe { libc::syscall(libc::SYS_init_module, image.as_ptr(), image.len(), options.as_ptr()) };
    if result == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        error => Err(error),
    }
}
