/** Copies a text; false when the browser refuses. Browsers offer the clipboard only on HTTPS and localhost, so on
 *  other addresses the old way is tried. */
export async function copyText(text: string): Promise<boolean> {
	try {
		await navigator.clipboard.writeText(text);
		return true;
	} catch {
		return copyBySelection(text);
	}
}

function copyBySelection(text: string): boolean {
	const focused = document.activeElement;
	const field = document.createElement('textarea');
	field.value = text;
	field.className = 'sr-only';
	// Inside an open dialog, so that its focus trap lets it be.
	(focused?.closest('[role=dialog]') ?? document.body).append(field);
	field.select();
	const copied = document.execCommand('copy');
	field.remove();
	if (focused instanceof HTMLElement) focused.focus();
	return copied;
}
