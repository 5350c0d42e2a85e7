//! Kernel modules, from the initramfs: `/modules/order` names them, each after those that it needs.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::path::Path;

use super::During;

pub fn load_all() -> io::Result<()> {
    let folder = Path::new("/modules");
    let order = fs::read_to_string(folder.join("order")).during("reading /modules/order")?;
    for name in order.lines().filter(|line| !line.is_empty()) {
        load(&fs::read(folder.join(name)).during(name)?).during(name)?;
    }
    // They are in the kernel now, and the initramfs is memory.
    fs::remove_dir_all(folder)
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
