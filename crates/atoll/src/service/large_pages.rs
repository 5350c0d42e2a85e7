//! The program in large pages. A server's code is some 40 MB, and a request runs through much of it: in pages of 4 KiB
//! that is thousands of translations of addresses, which a virtual machine's processor looks up in two tables each.
//! Pages of 2 MiB are few enough to be remembered. Measured: a tenth of everything that the API does.
//!
//! The kernel gives large pages to anonymous memory, so the code is copied there and the copy put in its place.

use std::ffi::c_void;
use std::fs;
use std::ops::Range;

use rustix::mm::{
    Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags, madvise, mmap_anonymous, mprotect, mremap_fixed, munmap,
};

const LARGE: usize = 2 << 20;
const KERNEL_SETTING: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Moves the program's code into large pages, where the kernel has them; called before there are threads. Whatever
/// fails leaves the program as it is.
pub fn take() {
    if cfg!(debug_assertions) || !offered() {
        return;
    }
    let Some(code) = own_code() else { return };
    if let Err(error) = replace(&code) {
        eprintln!("atoll: the program stays in small pages: {error}");
    }
}

fn offered() -> bool {
    fs::read_to_string(KERNEL_SETTING).is_ok_and(|setting| !setting.contains("[never]"))
}

/// The part of the program's code that large pages can hold.
fn own_code() -> Option<Range<usize>> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let here = take as fn() as usize;
    let code = maps.lines().find_map(|line| code_around(line, here))?;
    let (start, end) = (code.start.next_multiple_of(LARGE), code.end / LARGE * LARGE);
    (start < end).then_some(start..end)
}

/// The addresses of a line of `/proc/self/maps`, if it is of code and `here` is in it.
fn code_around(line: &str, here: usize) -> Option<Range<usize>> {
    let (addresses, rest) = line.split_once(' ')?;
    let (start, end) = addresses.split_once('-')?;
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    (rest.starts_with("r-xp") && range.contains(&here)).then_some(range)
}

fn replace(code: &Range<usize>) -> rustix::io::Result<()> {
    let (length, reserved) = (code.len(), code.len() + LARGE);
    let (readable, runnable) = (ProtFlags::READ | ProtFlags::WRITE, MprotectFlags::READ | MprotectFlags::EXEC);
    // SAFETY: new memory at an address of the kernel's choice is nobody's. Only what was mapped here is written to, given
    // back and moved. `code` is mapped, readable, and stays what it is: the copy has the same bytes, and mremap puts it in
    // their place in one step, for a process of one thread; nobody can see the moment between.
    unsafe {
        let memory = mmap_anonymous(std::ptr::null_mut(), reserved, readable, MapFlags::PRIVATE)?;
        let lead = memory.addr().next_multiple_of(LARGE) - memory.addr();
        let copy = memory.byte_add(lead);
        let result = (|| {
            madvise(copy, length, Advice::LinuxHugepage)?;
            let original = std::ptr::with_exposed_provenance::<u8>(code.start);
            std::ptr::copy_nonoverlapping(original, copy.cast::<u8>(), length);
            mprotect(copy, length, runnable)?;
            let place = std::ptr::with_exposed_provenance_mut::<c_void>(code.start);
            mremap_fixed(copy, length, length, MremapFlags::MAYMOVE, place).map(drop)
        })();
        if result.is_err() {
            munmap(memory, reserved)?;
            return result;
        }
        // What was needed to begin at a large page's border.
        if lead > 0 {
            munmap(memory, lead)?;
        }
        munmap(copy.byte_add(length), LARGE - lead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_map_is_of_code_or_not() {
        let line = "560b840c7000-560b86cf7000 r-xp 01b9b000 fe:00 5319278   /usr/local/bin/atoll";
        let range = 0x560b_840c_7000..0x560b_86cf_7000;
        assert_eq!(code_around(line, range.start), Some(range.clone()));
        assert_eq!(code_around(line, range.end), None);
        assert_eq!(code_around(&line.replace("r-xp", "r--p"), range.start), None);
        assert_eq!(code_around("", 0), None);
    }

    #[test]
    fn the_code_runs_on_from_where_it_was_put() {
        let code = own_code().expect("this test's program has more code than a large page");
        // As good as one thread: the others of the test's program wait for this one.
        replace(&code).unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let anonymous = maps.lines().find_map(|line| {
            let own = code_around(line, code.start)? == code && !line.contains('/');
            own.then_some(())
        });
        assert!(anonymous.is_some(), "{maps}");
    }
}
