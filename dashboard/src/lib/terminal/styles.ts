// xterm.js writes styles into <style> elements and `style` attributes that it makes, and takes the page's own document
// for it in places whatever `documentOverride` says. The Content-Security-Policy allows nothing inline. So, while a
// terminal is open, what the document makes takes the ways that are allowed: constructed style sheets, and the style
// object of an element. Nothing else on the page notices: it makes no <style>, and a style that is set holds as before.

let users = 0;

/** Begins; the answer ends it. */
export function keepStylesWithinPolicy(real: Document): () => void {
	users += 1;
	if (users === 1) {
		real.createElement = ((name: string, options?: ElementCreationOptions) => {
			if (name.toLowerCase() === 'style') return sheetElement(real);
			const element = createElement(real, name, options);
			// Colours of 24 bits and the spacing of letters.
			if (name === 'span') element.setAttribute = setAttribute;
			return element;
		}) as Document['createElement'];
	}
	return () => {
		users -= 1;
		// The prototype's own shows again.
		if (users === 0) Reflect.deleteProperty(real, 'createElement');
	};
}

function createElement(real: Document, name: string, options?: ElementCreationOptions): HTMLElement {
	return Document.prototype.createElement.call(real, name, options);
}

function setAttribute(this: HTMLElement, name: string, value: string): void {
	if (name === 'style') this.style.cssText = value;
	else Element.prototype.setAttribute.call(this, name, value);
}

/** Looks like a style element to xterm: what is set as its text holds until it is removed. */
function sheetElement(real: Document): HTMLElement {
	const element = createElement(real, 'template');
	const sheet = new CSSStyleSheet();
	let text = '';
	let shown = false;
	Object.defineProperty(element, 'textContent', {
		get: () => text,
		set: (value: string | null) => {
			text = value ?? '';
			sheet.replaceSync(text);
			if (!shown) real.adoptedStyleSheets = [...real.adoptedStyleSheets, sheet];
			shown = true;
		}
	});
	element.remove = () => {
		real.adoptedStyleSheets = real.adoptedStyleSheets.filter((other) => other !== sheet);
		shown = false;
		Element.prototype.remove.call(element);
	};
	return element;
}
