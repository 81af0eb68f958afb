//! Defines the driver's functions under their own names. Owns the `forward!` macro.

/// For each declaration: a symbol, and a C function that passes its call on to the driver's.
macro_rules! forward {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?);)*) => {
        mod symbols {
            use crate::library::Symbol;
            $(pub(super) static $name: Symbol = Symbol::new(stringify!($name));)*
        }

        /// Every function that is forwarded.
        pub(crate) static SYMBOLS: &[&crate::library::Symbol] = &[$(&symbols::$name),*];

        $(
            // The only definition of the name that is linked: the workspace's `libcuda.a` is empty, and the driver
            // is loaded at run time, without its names becoming global.
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($argument: $type),*) -> CUresult {
                let address = match symbols::$name.address() {
                    Ok(address) => address,
                    Err(result) => return crate::result::known(result as i32),
                };
                // SAFETY: the address is that of the driver's function of this name, which has these arguments by
                // `cust_raw`'s declaration. The result is taken as a number, because it may be one that the enum
                // lacks; both have the size and the registers of a C `int`.
                let function = unsafe {
                    std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($type),*) -> i32>(address)
                };
                // SAFETY: the caller's promises to the driver's function are passed on unchanged.
                crate::result::known(unsafe { function($($argument),*) })
            }
        )*
    };
}
