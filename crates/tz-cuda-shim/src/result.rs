//! Keeps result codes that `cust_raw` does not know from becoming an invalid enum. Owns [`last_code`].

use std::cell::Cell;

use cust_raw::CUresult;

use crate::generated::RESULTS;

thread_local! {
    static LAST_CODE: Cell<Option<i32>> = const { Cell::new(None) };
}

/// The newest code other than success that a driver function gave on this thread, as the driver numbers it. Bindings
/// fold codes that they have no name for into one; this tells them apart, right after the call.
#[must_use]
pub fn last_code() -> Option<i32> {
    LAST_CODE.get()
}

/// The code as `cust_raw` knows it.
pub(crate) fn known(code: i32) -> CUresult {
    if code == 0 {
        return CUresult::CUDA_SUCCESS;
    }
    LAST_CODE.set(Some(code));
    let place = RESULTS.binary_search_by_key(&code, |&result| result as i32);
    let result = place.ok().and_then(|place| RESULTS.get(place));
    result.copied().unwrap_or(CUresult::CUDA_ERROR_UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_codes_keep_their_names_and_others_their_numbers() {
        assert!(RESULTS.is_sorted_by_key(|&result| result as i32));
        for &result in RESULTS {
            assert_eq!(known(result as i32), result);
        }
        // Device unavailable and tensor memory leak, both younger than CUDA 11.4; and two that no driver has.
        for code in [46, 721, -1, i32::MAX] {
            assert_eq!(known(code), CUresult::CUDA_ERROR_UNKNOWN);
            assert_eq!(last_code(), Some(code));
        }
        assert_eq!(known(0), CUresult::CUDA_SUCCESS);
        assert_eq!(last_code(), Some(i32::MAX), "success leaves it");
    }
}
