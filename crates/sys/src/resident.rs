//! What a process that has come to rest keeps in memory.

use std::ffi::c_void;

use libc::{c_int, dl_phdr_info, size_t};

/// Gives up the pages of this process that come back by themselves: program
/// code and constants, which the kernel maps again from its file when they are
/// next used, and freed heap. For a process whose start runs through a hundred
/// times the code it needs afterwards, and that then waits.
///
/// `MADV_DONTNEED` of madvise(2) on each read-only segment that
/// dl_iterate_phdr(3) names, and malloc_trim(3). What the kernel refuses stays
/// as it is.
pub fn shed() {
    // SAFETY: `object` keeps to the contract of dl_iterate_phdr(3) and uses no
    // data of the caller's.
    unsafe { libc::dl_iterate_phdr(Some(object), std::ptr::null_mut()) };
    // SAFETY: malloc_trim(3) may be called at any time by any thread.
    unsafe { libc::malloc_trim(0) };
}

/// One program or library.
///
/// # Safety
/// As dl_iterate_phdr(3) calls it: `info` is valid for the call, and so are
/// its program headers.
unsafe extern "C" fn object(info: *mut dl_phdr_info, _: size_t, _: *mut c_void) -> c_int {
    // SAFETY: valid for the call, by the contract above.
    let info = unsafe { &*info };
    // SAFETY: getauxval(3) reads a constant of this process.
    let vdso = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    // The kernel's own object has no file.
    if info.dlpi_addr == vdso || info.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: `dlpi_phdr` points to `dlpi_phnum` headers, by the contract above.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    for header in headers {
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            segment(info.dlpi_addr, header.p_vaddr, header.p_memsz);
        }
    }
    0
}

fn segment(base: u64, address: u64, length: u64) {
    let page = rustix::param::page_size() as u64;
    let start = base.wrapping_add(address) / page * page;
    let end = base.wrapping_add(address).wrapping_add(length);
    let Ok(length) = usize::try_from(end.saturating_sub(start)) else {
        return;
    };
    let start = std::ptr::with_exposed_provenance_mut(start as usize);
    // SAFETY: the segment was mapped by the loader, privately and without write
    // permission, and nothing relocates such a segment (the linker refuses text
    // relocations): each page is as the file has it, and the next access to it
    // reads it again. Nothing outside the segment's pages is touched.
    unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kibibytes of this process's mapped files that are resident.
    /// proc_pid_status(5).
    fn file_pages() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|l| l.starts_with("RssFile:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn code_goes_and_comes_back() {
        let table: Vec<String> = (0..1000).map(|n| format!("{n:>8}")).collect();
        let before = file_pages();
        shed();
        let after = file_pages();
        assert!(after < before, "{after} of {before} KiB are left");
        // Code, constants and heap are as they were.
        let again: Vec<String> = (0..1000).map(|n| format!("{n:>8}")).collect();
        assert_eq!(table, again);
    }
}
