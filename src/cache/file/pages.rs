//! Pages of memory for what is looked at all over.

/// A large page of x86-64 and most others; below it there is nothing to gain.
#[cfg(target_os = "linux")]
const LARGE: usize = 2 << 20;

/// Asks the system for large pages below `buffer`, which nothing was written to yet. A look at a place in a text of many
/// megabytes then costs less, as the processor knows where it is: in a hop on Kafka, a twentieth of the whole.
#[cfg(target_os = "linux")]
pub fn large(buffer: &mut Vec<u8>) {
    use rustix::mm::{Advice, madvise};

    let start = buffer.as_mut_ptr();
    // Whole pages only; where a page begins, a large one may
    let before = start.align_offset(rustix::param::page_size());
    let Some(room) = buffer.capacity().checked_sub(before).filter(|room| *room >= LARGE) else { return };
    let room = room - room % rustix::param::page_size();
    // SAFETY: the range lies in the buffer's own allocation, and this advice changes nothing in it but its speed. Where
    // the system does not follow it, it is as if it had not been given
    let _ = unsafe { madvise(start.add(before).cast(), room, Advice::LinuxHugepage) };
}

#[cfg(not(target_os = "linux"))]
pub fn large(_: &mut Vec<u8>) {}
