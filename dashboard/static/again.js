// When the application's own files don't come (a network that was changed at that moment, a server that was upgraded), the
// page loads again by itself a few times, and then says so: nobody is left before an empty page. What goes wrong later
// is told by src/routes/+error.svelte.
(() => {
	const KEY = 'atoll.started-again';
	const AT_MOST = 3;
	const WITHIN_MS = 30_000;
	const WAIT_MS = 400;

	/** How often it was tried of late; one more from now on. */
	function tries() {
		try {
			const [count = 0, since = 0] = (sessionStorage.getItem(KEY) ?? '').split(' ').map(Number);
			const fresh = Date.now() - since > WITHIN_MS;
			sessionStorage.setItem(KEY, fresh ? `1 ${Date.now()}` : `${count + 1} ${since}`);
			return fresh ? 0 : count;
		} catch {
			// No storage: it could go round for ever.
			return AT_MOST;
		}
	}

	addEventListener('unhandledrejection', (event) => {
		const started = document.querySelector('#svelte-announcer') !== null;
		if (started || !/dynamically imported module|importing a module/i.test(String(event.reason))) return;
		event.preventDefault();
		again();
	});
	// The script that asks for all others, which nobody else waits for.
	addEventListener(
		'error',
		({ target }) => target instanceof HTMLScriptElement && document.body && again(),
		true
	);

	function again() {
		if (tries() < AT_MOST) {
			setTimeout(() => location.reload(), WAIT_MS);
			return;
		}
		const text = document.createElement('p');
		text.setAttribute('role', 'alert');
		text.textContent = 'The dashboard could not be loaded. The connection may have been away for a moment. ';
		const button = document.createElement('button');
		button.textContent = 'Try again';
		button.addEventListener('click', () => location.reload());
		text.append(button);
		document.body.replaceChildren(text);
	}
})();
