// Before the first paint: the theme that the person chose, else the system's. See src/lib/theme.svelte.ts.
(() => {
	let theme = null;
	try {
		theme = localStorage.getItem('atoll.theme');
	} catch {
		// No storage: the system's theme it is.
	}
	if (theme !== 'dark' && theme !== 'light') {
		theme = matchMedia('(prefers-color-scheme: light)').matches ? 'light' : 'dark';
	}
	document.documentElement.dataset.theme = theme;
})();
