"""Reports: prose, tables and figures as one HTML file that needs nothing else.

`document` holds `Report`, which collects and saves; `cells` turns a frame into table cells;
`markup` turns prose into HTML; `template.html` and `style.css` are how the page looks. Below:
`plotting`. Deliberately not here: any class of ours. Results hand over frames and figures.
"""

from reft_interp.report.document import Report

__all__ = ["Report"]
