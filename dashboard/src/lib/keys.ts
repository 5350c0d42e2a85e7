// Keys that work anywhere on a page, where nothing is being typed.

/** Begins to listen; the answer ends it. For `$effect`. */
export function onKeys(keys: Record<string, () => void>): () => void {
	const listen = (event: KeyboardEvent) => {
		const target = event.target instanceof HTMLElement ? event.target : null;
		if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
		if (target?.closest('input, select, textarea, [contenteditable], [role=dialog], [role=menu], .xterm'))
			return;
		const act = keys[event.key];
		if (!act) return;
		event.preventDefault();
		act();
	};
	window.addEventListener('keydown', listen);
	return () => window.removeEventListener('keydown', listen);
}
