// xterm.js writes styles into <style> elements and `style` attributes that it makes. The Content-Security-Policy allows
// nothing inline, so it is given a document whose elements take the ways that are allowed: constructed style sheets,
// and the style object of an element.

/** A stand-in for `document` to pass as xterm's `documentOverride`. */
export function documentWithSheets(real: Document): Document {
	return new Proxy(real, {
		get(target, property) {
			if (property === 'createElement') {
				return (name: string) => {
					if (name.toLowerCase() === 'style') return sheetElement(target);
					const element = target.createElement(name);
					// Colours of 24 bits.
					element.setAttribute = setAttribute;
					return element;
				};
			}
			const value: unknown = Reflect.get(target, property, target);
			return typeof value === 'function' ? value.bind(target) : value;
		}
	});
}

function setAttribute(this: HTMLElement, name: string, value: string): void {
	if (name === 'style') this.style.cssText = value;
	else Element.prototype.setAttribute.call(this, name, value);
}

/** Looks like a style element to xterm: what is set as its text holds until it is removed. */
function sheetElement(real: Document): HTMLElement {
	const element = real.createElement('template');
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
